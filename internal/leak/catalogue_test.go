package leak_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestCatalogueNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	const root = "../.."
	catalogue, err := os.ReadFile(filepath.Join(root, "docs", "leaks.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(source), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(catalogue), -1)
	if len(named) < 100 {
		t.Errorf("the catalogue names %d tests, want more", len(named))
	}
	for _, m := range named {
		if !declared[m[1]] {
			t.Errorf("docs/leaks.md names %s, which no file declares", m[1])
		}
	}
}
