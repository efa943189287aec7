package config

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Devices checks names of interfaces as the file's are checked, and returns each once.
func Devices(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		if err := checkDevice(n); err != nil {
			return nil, err
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// checkDevice says what is wrong with an interface's name, as the kernel would.
func checkDevice(s string) error {
	bad := s == "" || s == "." || s == ".." || len(s) > 15 ||
		strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == ':' || r == 0 || unicode.IsSpace(r) })
	if bad {
		return fmt.Errorf("%q can't be the name of an interface", s)
	}
	return nil
}

func checkPath(s string) error {
	if !path.IsAbs(s) {
		return fmt.Errorf("%q is not an absolute path", s)
	}
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q contains a NUL byte", s)
	}
	return nil
}

// place finds where the value of a key is, or in a list the one of its elements.
func place(data []byte, key string, index int) (line, column int) {
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			continue
		}
		if k := e.Key(); !k.Next() || string(k.Node().Data) != key {
			continue
		}
		v := e.Value()
		if v.Kind == unstable.Array {
			v = element(v, index)
		}
		at := p.Shape(v.Raw).Start
		return at.Line, at.Column
	}
	return 0, 0
}

// element returns an element of a list, comments not counted.
func element(list *unstable.Node, index int) *unstable.Node {
	for items := list.Children(); items.Next(); {
		switch n := items.Node(); {
		case n.Kind == unstable.Comment:
		case index == 0:
			return n
		default:
			index--
		}
	}
	return list
}

// wrongCase finds keys that the decoder took for others: it does not tell "Table" from "table".
func wrongCase(name string, data []byte) error {
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			continue
		}
		if k := e.Key(); k.Next() && !slices.Contains(keys(), string(k.Node().Data)) {
			at := p.Shape(k.Node().Raw).Start
			return unknownKey(name, at.Line, at.Column, string(k.Node().Data))
		}
	}
	return nil
}

// nearest returns the word that s most likely is a misspelling of, or nothing.
func nearest(s string, words []string) string {
	best, word := max(2, len(s)/3)+1, ""
	for _, w := range words {
		if d := distance(s, w); d < best {
			best, word = d, w
		}
	}
	return word
}

// distance counts the letters to insert, delete, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
