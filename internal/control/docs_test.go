package control

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestDocsHaveEveryCall holds docs/api.md and the table of calls together: a call is documented if and only if there
// is one, under a heading and with an example.
func TestDocsHaveEveryCall(t *testing.T) {
	docs, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, c := serve(t, -1)
	var headed []string
	for _, m := range regexp.MustCompile(`(?:\n## |, )((?:GET|POST|PUT) /v1/\w+)`).FindAllSubmatch(docs, -1) {
		headed = append(headed, string(m[1]))
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		for _, path := range []string{"status", "apps", "processes", "explain", "exclude", "include", "launch", "events"} {
			path = "/v1/" + path
			if method+path == "GET/v1/events" {
				continue // it would not end
			}
			status, _ := raw(t, c, method, path, "", "")
			exists := status != 404 && status != 405
			if documented := slices.Contains(headed, method+" "+path); documented != exists {
				t.Errorf("%s %s: exists: %v, documented: %v", method, path, exists, documented)
			}
			if !regexp.MustCompile(`(?m)^curl .*http://sidestep` + path).Match(docs) {
				t.Errorf("%s has no example", path)
			}
		}
	}
}
