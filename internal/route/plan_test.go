package route

import (
	"bufio"
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the plans in testdata")

// samePlan compares plans; nothing is as good as an empty list.
func samePlan() cmp.Options {
	return cmp.Options{
		cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

// TestPlans compares the plan for each world in testdata with the one written there.
func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no worlds: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			testPlan(t, file)
		})
	}
}

func testPlan(t *testing.T, file string) {
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg := parseConfig(t, section(ar, "config"))
	snap := parseWorld(t, section(ar, "world"))
	p := PlanFor(snap, cfg)
	got := p.String()
	if again := PlanFor(applied(snap, p), cfg); !cmp.Equal(p, again, samePlan()...) {
		t.Errorf("planning again after Set changes the plan (-first +again):\n%s", cmp.Diff(p, again, samePlan()...))
	}
	if *update {
		setSection(ar, "plan", got)
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := section(ar, "plan"); got != want {
		t.Errorf("plan differs (-want +got; -update rewrites):\n%s", cmp.Diff(want, got))
	}
}

func section(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func setSection(ar *txtar.Archive, name, data string) {
	for i := range ar.Files {
		if ar.Files[i].Name == name {
			ar.Files[i].Data = []byte(data)
			return
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(data)})
}

// parseConfig reads lines "tunnel NAME", "uplink NAME" and "priority N".
func parseConfig(t *testing.T, text string) Config {
	cfg := DefaultConfig()
	for s := bufio.NewScanner(bytes.NewReader([]byte(text))); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "tunnel":
			cfg.Tunnels = append(cfg.Tunnels, value)
		case "uplink":
			cfg.Uplink = value
		case "priority":
			cfg.Priority = num(value)
		default:
			t.Fatalf("config: unknown word %q", key)
		}
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCoverage(t *testing.T) {
	const half = wholeSpace / 2
	tests := []struct {
		name string
		dst  string
		want uint64
	}{
		{"nothing", "", 0},
		{"default", "0.0.0.0/0", wholeSpace},
		{"one half", "0.0.0.0/1", half},
		{"both halves", "128.0.0.0/1 0.0.0.0/1", wholeSpace},
		{"nested", "0.0.0.0/0 10.0.0.0/8 10.1.0.0/16", wholeSpace},
		{"nested, the larger last", "10.1.0.0/16 10.0.0.0/8", wholeSpace >> 8},
		{"private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16", wholeSpace>>8 + wholeSpace>>12 + wholeSpace>>16},
		{"IPv6 default", "::/0", wholeSpace},
		{"IPv6 halves", "::/1 8000::/1", wholeSpace},
		{"all that is global", "2000::/3", wholeSpace},
		{"unique local", "fc00::/7 fe80::/64", 0},
		{"a customer's", "2001:db8::/32", wholeSpace >> 29},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var dst []netip.Prefix
			for _, s := range strings.Fields(tt.dst) {
				dst = append(dst, netip.MustParsePrefix(s))
			}
			if got := coverage(dst); got != tt.want {
				t.Errorf("coverage(%s) = %#x, want %#x", tt.dst, got, tt.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"default", func(*Config) {}, ""},
		{"no mask", func(c *Config) { c.Mask = 0 }, "mark mask 0x0: not one piece of bits"},
		{"holes", func(c *Config) { c.Mask = 0x50000000 }, "mark mask 0x50000000: not one piece of bits"},
		{"all bits", func(c *Config) { c.Mask = ^uint32(0) }, ""},
		{"main", func(c *Config) { c.Table = 254 }, "routing table 254: reserved"},
		{"late", func(c *Config) { c.Priority = 32766 }, "rule priority 32766: not between 1 and 32764"},
		{"no protocol", func(c *Config) { c.Protocol = 0 }, "routing protocol 0: means unknown"},
		{"both", func(c *Config) { c.Tunnels, c.Uplink = []string{"a"}, "a" },
			`interface "a": named as tunnel and as uplink`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			tt.change(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Validate() = %q, want %q", got, tt.want)
			}
		})
	}
	if got := DefaultConfig().Mark(ExitOutside); got != 0x1000_0000 {
		t.Errorf("mark of exit 1 = %#x, want 0x10000000", got)
	}
	if got := DefaultConfig().Exits(); got != 7 {
		t.Errorf("largest exit = %d, want 7", got)
	}
}
