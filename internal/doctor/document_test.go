package doctor

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of capabilities into docs/kernels.md")

// TestKernelsAreDocumented holds docs/kernels.md to the table of capabilities.
func TestKernelsAreDocumented(t *testing.T) {
	const (
		doc   = "../../docs/kernels.md"
		begin = "<!-- capabilities: written by `go test ./internal/doctor -run KernelsAreDocumented -update` -->\n"
		end   = "<!-- end of capabilities -->\n"
	)
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", doc)
	}
	var want strings.Builder
	want.WriteString(before + begin + "| capability | Linux | needed | for | without it |\n|---|---|---|---|---|\n")
	for _, c := range Capabilities() {
		needed := map[bool]string{true: "yes", false: "no"}[c.Needed]
		fmt.Fprintf(&want, "| %s | %s | %s | %s | %s |\n", c.Name, c.Since, needed, c.For, c.Without)
	}
	want.WriteString(end + after)
	if *update {
		if err := os.WriteFile(doc, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want.String(), string(b)); d != "" {
		t.Errorf("run the test with -update (-want +got):\n%s", d)
	}
	if !strings.Contains(before, "**Linux "+Minimum+"**") {
		t.Errorf("the document does not name Linux %s as the minimum", Minimum)
	}
}
