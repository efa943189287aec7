package policy

import (
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("x", 255)
	deep := strings.Repeat("/x", DepthMax)
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{in: "/usr/bin/curl", want: "/usr/bin/curl"},
		{in: "//usr//bin/./curl", want: "/usr/bin/curl"},
		{in: "/usr/lib/../bin/curl", want: "/usr/bin/curl"},
		{in: "/../usr", want: "/usr"},
		{in: "/opt/games/", want: "/opt/games/"},
		{in: "/opt/games//", want: "/opt/games/"},
		{in: "/opt/games/.", want: "/opt/games/"},
		{in: "/opt/games/chess/..", want: "/opt/games/"},
		{in: "/opt/games/..x", want: "/opt/games/..x"},
		{in: "/with space\n\xff", want: "/with space\n\xff"},
		{in: "/" + long, want: "/" + long},
		{in: deep, want: deep},
		{in: deep + "/", want: deep + "/"},
		{in: deep + "/..", want: deep[:len(deep)-2] + "/"},
		{in: "", err: ErrEmptyPath},
		{in: "curl", err: ErrRelativePath},
		{in: "./curl", err: ErrRelativePath},
		{in: "~/curl", err: ErrRelativePath},
		{in: " /curl", err: ErrRelativePath},
		{in: "/usr\x00/bin", err: ErrNULInPath},
		{in: "\x00", err: ErrNULInPath},
		{in: "/", err: ErrRootPath},
		{in: "//./..", err: ErrRootPath},
		{in: "/usr/..", err: ErrRootPath},
		{in: "/" + long + "x", err: ErrNameTooLong},
		{in: deep + "/x", err: ErrPathTooDeep},
		{in: strings.Repeat("/"+long[:63], 64), err: ErrPathTooLong},
		{in: "/" + strings.Repeat("./", PathMax/2), err: ErrPathTooLong},
	} {
		got, err := ParsePath(c.in)
		if got.Path != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParsePath(%.60q) = %.60q, %v, want %.60q, %v", c.in, got.Path, err, c.want, c.err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("ParsePath(%.60q): an error of %d bytes", c.in, len(err.Error()))
		}
	}
}

// checkParsed fails unless whatever ParsePath made of s is a path as the rest of the code expects it.
func checkParsed(t interface {
	Fatalf(string, ...any)
	Helper()
}, s string) {
	t.Helper()
	app, err := ParsePath(s)
	if err != nil {
		if app != (App{}) {
			t.Fatalf("%q: app %q and error %v", s, app.Path, err)
		}
		return
	}
	bare := strings.TrimSuffix(app.Path, "/")
	names := strings.Split(bare, "/")[1:]
	switch again, err := ParsePath(app.Path); {
	case err != nil || again != app:
		t.Fatalf("%q became %q, which became %q, %v", s, app.Path, again.Path, err)
	case bare == "" || path.Clean(bare) != bare || bare[0] != '/':
		t.Fatalf("%q became %q, which is not clean", s, app.Path)
	case len(names) > DepthMax || strings.Contains(bare, "\x00") || len(bare) >= PathMax:
		t.Fatalf("%q became %q, which the kernel can't have", s, app.Path)
	case app.Dir() && app.Covers(bare), !app.Dir() && !app.Covers(bare), app.Covers(bare+"/x") != app.Dir():
		t.Fatalf("%q became %q, which covers the wrong paths", s, app.Path)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "/", "/usr/bin/curl", "/opt/games/", "/a/../b/.", "x", "/\x00", "/" + strings.Repeat("x", 256)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkParsed(t, s) })
}

func TestParsedPathsAreClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"/", "//", ".", "..", "a", "bin", "..x", strings.Repeat("n", 200), " "}), 0, 40).Draw(t, "parts")
		checkParsed(t, strings.Join(parts, ""))
		checkParsed(t, "/"+strings.Join(parts, "/"))
	})
}

func TestParseReportsEveryBadPath(t *testing.T) {
	p, err := Parse([]string{"/b", "x", "/a", "/b", "", "/a/", "//b"})
	if diff := cmp.Diff([]App{{"/b"}, {"/a"}, {"/a/"}}, p.Apps); diff != "" {
		t.Errorf("apps differ (-want +got):\n%s", diff)
	}
	if !errors.Is(err, ErrRelativePath) || !errors.Is(err, ErrEmptyPath) {
		t.Errorf("error is %v, want both", err)
	}
}

// few are paths that cover each other in every way.
var few = []string{"/a", "/b", "/d/", "/d/a", "/d/e/", "/d/e/a", "/da"}

func drawApp(t *rapid.T) App { return App{Path: rapid.SampledFrom(few).Draw(t, "app")} }

func drawPolicy(t *rapid.T) Policy {
	var p Policy
	for _, path := range rapid.SliceOf(rapid.SampledFrom(few)).Draw(t, "policy") {
		p, _ = p.With(App{Path: path})
	}
	return p
}

func TestWithAndWithoutUndoEachOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, app := drawPolicy(t), drawApp(t)
		before := slices.Clone(p.Apps)
		with, added := p.With(app)
		without, removed := p.Without(app)
		if !with.Has(app.Path) || added == p.Has(app.Path) || without.Has(app.Path) || removed != p.Has(app.Path) {
			t.Fatalf("%v: with %v, %t; without %v, %t", p, with, added, without, removed)
		}
		if back, _ := with.Without(app); !added == back.Equal(p) {
			t.Fatalf("%v with and without %s is %v", p, app.Path, back)
		}
		if back, _ := without.With(app); removed != back.Equal(p) {
			t.Fatalf("%v without and with %s is %v", p, app.Path, back)
		}
		if !slices.Equal(before, p.Apps) {
			t.Fatalf("the receiver changed from %v to %v", before, p.Apps)
		}
	})
}

func TestEqualIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		q := Policy{Apps: rapid.Permutation(p.Apps).Draw(t, "order")}
		if !p.Equal(q) || !q.Equal(p) {
			t.Fatalf("%v and %v are not equal", p, q)
		}
		if more, added := q.With(drawApp(t)); added == p.Equal(more) {
			t.Fatalf("%v and %v: equal %t", p, more, added)
		}
	})
}

func TestCoveringIsNearestFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		exe := rapid.SampledFrom([]string{"/a", "/c", "/d", "/d/a", "/d/e/a", "/d/e/f/a", "/da", "/dx/a"}).Draw(t, "exe")
		covering := p.Covering(exe)
		for i, path := range covering {
			if !(App{path}).Covers(exe) || i > 0 && len(path) >= len(covering[i-1]) {
				t.Fatalf("%s is covered by %q", exe, covering)
			}
		}
		for _, a := range p.Apps {
			if a.Covers(exe) != slices.Contains(covering, a.Path) {
				t.Fatalf("%s is covered by %q, of %v", exe, covering, p)
			}
		}
	})
}

func TestVerdictsAndCausesAreSpelledAsInTheContract(t *testing.T) {
	for want, v := range map[string]interface {
		MarshalText() ([]byte, error)
		String() string
	}{
		"included": Included, "excluded": Excluded, "undecided": Undecided,
		"default": Default, "listed": Listed, "inherited": Inherited, "launched": Launched,
		"verdict(9)": Verdict(9), "cause(9)": Cause(9),
	} {
		if b, err := v.MarshalText(); string(b) != want || err != nil || v.String() != want {
			t.Errorf("%s is spelled %q (%v) and %q", want, b, err, v.String())
		}
	}
	var v Verdict
	var c Cause
	for i := range uint8(3) {
		if err := v.UnmarshalText([]byte(Verdict(i).String())); err != nil || v != Verdict(i) {
			t.Errorf("%s is read as %s (%v)", Verdict(i), v, err)
		}
	}
	for i := range uint8(4) {
		if err := c.UnmarshalText([]byte(Cause(i).String())); err != nil || c != Cause(i) {
			t.Errorf("%s is read as %s (%v)", Cause(i), c, err)
		}
	}
	if v.UnmarshalText([]byte("listed")) == nil || c.UnmarshalText([]byte("")) == nil {
		t.Error("a word that is none was read")
	}
}
