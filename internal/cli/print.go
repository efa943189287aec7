package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// say writes lines of the answer.
func (e *env) say(lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := e.Stdout.Write([]byte(strings.Join(lines, "\n") + "\n"))
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// document writes the answer as one JSON document on one line.
func (e *env) document(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return e.say(strings.TrimSuffix(b.String(), "\n"))
}

// table writes rows in aligned columns. The first row is the heading.
func (e *env) table(rows [][]string) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return e.say(lines...)
}

// printable quotes text that would do more to a terminal, or to a table, than show itself.
func printable(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

// dash shows that there is nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}
