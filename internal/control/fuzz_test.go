package control

import (
	"errors"
	"slices"
	"testing"

	"sidestep/api"
	"sidestep/policy"
)

// FuzzDecodePaths: whatever comes, the engine sees only clean paths, each once, and the caller a reason.
func FuzzDecodePaths(f *testing.F) {
	for _, s := range []string{
		`{"paths":["/usr/bin/x","/opt/games/"]}`, `{"paths":[]}`, `{"paths":null}`, `{}`, `[]`, ``, `{"paths":["x"]}`,
		`{"paths":["/x"]}{}`, `{"PATHS":["//x/../y/."]}`, `{"paths":["/\ud800"]}`, "{\"paths\":[\"/\xff\"]}", `{"a":1}`,
	} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, body []byte, least int) {
		paths, err := decodePaths(body, least)
		if err != nil {
			var ae *api.Error
			var re *requestError
			if !errors.As(err, &ae) && !errors.As(err, &re) {
				t.Errorf("error is %T: %v", err, err)
			}
			return
		}
		if len(paths) == 0 && least > 0 {
			t.Error("no paths, no error")
		}
		for i, p := range paths {
			app, err := policy.ParsePath(p)
			if err != nil || app.Path != p {
				t.Errorf("path %q reaches the engine, which would read it as %q, %v", p, app.Path, err)
			}
			if slices.Contains(paths[:i], p) {
				t.Errorf("path %q twice", p)
			}
		}
	})
}
