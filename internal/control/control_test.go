package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sidestep/api"
	"sidestep/internal/control/controltest"
	"sidestep/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server with a fake engine, for group members of gid (negative: nobody but root and us).
func serve(t *testing.T, gid int) (*controltest.Engine, *api.Client) {
	t.Helper()
	e := &controltest.Engine{}
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := listen(t.Context(), socket, gid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, e, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket's directory is still there: %v", err)
		}
	})
	return e, &api.Client{Socket: socket}
}

// raw sends a request as nobody's client would.
func raw(t *testing.T, c *api.Client, method, target, contentType, body string) (int, api.Error) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", c.Socket)
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e api.Error
	if resp.StatusCode != http.StatusOK {
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("%s %s: body %q: %v", method, target, b, err)
		}
	}
	return resp.StatusCode, e
}

func TestCallsReachTheEngine(t *testing.T) {
	e, c := serve(t, -1)
	ctx := t.Context()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Exclude(ctx, []string{exe, "/nowhere//x/", exe})
	want := api.Changes{Version: 1, Changes: []api.Change{
		{Path: exe, Result: "excluded", State: api.Active},
		{Path: "/nowhere/x/", Result: "excluded", State: api.Missing},
	}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Fatalf("Exclude: %v (-want +got)\n%s", err, d)
	}
	e.SetProcesses(
		api.Process{PID: 7, Exe: exe, Verdict: policy.Excluded, Cause: policy.Listed, App: exe},
		api.Process{PID: 8, Exe: "/bin/a"},
	)
	if apps, err := c.Apps(ctx); err != nil || len(apps.Apps) != 2 || apps.Apps[0].Processes != 1 {
		t.Errorf("Apps: %v, %v", apps, err)
	}
	if ps, err := c.Processes(ctx, false); err != nil || len(ps.Processes) != 1 || ps.Processes[0].PID != 7 {
		t.Errorf("Processes: %v, %v", ps, err)
	}
	if ps, err := c.Processes(ctx, true); err != nil || len(ps.Processes) != 2 {
		t.Errorf("all Processes: %v, %v", ps, err)
	}
	if x, err := c.ExplainPID(ctx, 7); err != nil || x.Verdict != policy.Excluded {
		t.Errorf("ExplainPID: %v, %v", x, err)
	}
	if x, err := c.ExplainPath(ctx, "/nowhere/x/a b&c=ö"); err != nil || x.Path != "/nowhere/x/a b&c=ö" || x.App != "/nowhere/x/" {
		t.Errorf("ExplainPath: %v, %v", x, err)
	}
	if ch, err := c.Include(ctx, []string{"/nowhere/x/"}); err != nil || ch.Changes[0].Result != "included" {
		t.Errorf("Include: %v, %v", ch, err)
	}
	if _, err := c.Replace(ctx, nil); err != nil || len(e.Paths()) != 0 {
		t.Errorf("Replace: %v, %v", e.Paths(), err)
	}
}

func TestLaunchTakesTheCallerFromTheConnection(t *testing.T) {
	e, c := serve(t, -1)
	if err := c.Launch(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, refused := raw(t, c, http.MethodPost, "/v1/launch", "application/json", `{"pid":1}`)
	if status != http.StatusBadRequest || refused.Code != api.CodeBadRequest {
		t.Errorf("a pid in the body: %d %v", status, refused)
	}
	if d := cmp.Diff([]int{os.Getpid()}, e.Launched()); d != "" {
		t.Errorf("launched (-want +got)\n%s", d)
	}
}

func TestDocumentsNeverHoldNull(t *testing.T) {
	_, c := serve(t, -1)
	for _, target := range []string{"/v1/status", "/v1/apps", "/v1/processes"} {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET "+target+" HTTP/1.0\r\n\r\n")
		b, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || strings.Contains(string(b), "null") || !strings.Contains(string(b), `"version":1`) {
			t.Errorf("%s: %v\n%s", target, err, b)
		}
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	e, c := serve(t, -1)
	for _, tt := range []struct {
		engine error
		status int
		want   api.Error
	}{
		{&api.Error{Code: api.CodeUnavailable, Message: "starting", Hint: "wait"}, 503,
			api.Error{Code: api.CodeUnavailable, Message: "starting", Hint: "wait"}},
		{errors.New("map full"), 500, api.Error{Code: api.CodeInternal, Message: "map full"}},
		{&api.Error{Code: api.CodeNotFound, Message: "x"}, 404, api.Error{Code: api.CodeNotFound, Message: "x"}},
		{&api.Error{Code: "news", Message: "x"}, 500, api.Error{Code: "news", Message: "x"}},
	} {
		e.Fail(tt.engine)
		status, got := raw(t, c, http.MethodGet, "/v1/status", "", "")
		if status != tt.status || got != tt.want {
			t.Errorf("%v: %d %+v", tt.engine, status, got)
		}
		_, err := c.Status(t.Context())
		var ae *api.Error
		if !errors.As(err, &ae) || *ae != tt.want {
			t.Errorf("%v: client says %v", tt.engine, err)
		}
	}
}

func TestBadRequestsNeverReachTheEngine(t *testing.T) {
	e, c := serve(t, -1)
	e.Fail(errors.New("the engine was asked"))
	const js = "application/json"
	long := "/" + strings.Repeat("a/", 3000)
	for _, tt := range []struct {
		method, target, contentType, body string
		status                            int
		code                              api.ErrorCode
		says                              string
	}{
		{"GET", "/", "", "", 404, api.CodeNotFound, "no such call"},
		{"GET", "/v2/status", "", "", 404, api.CodeNotFound, "no such call"},
		{"POST", "/v1/status", "", "", 405, api.CodeBadRequest, "does not take POST"},
		{"DELETE", "/v1/apps", "", "", 405, api.CodeBadRequest, "does not take DELETE"},
		{"GET", "/v1/exclude", "", "", 405, api.CodeBadRequest, "does not take GET"},
		{"POST", "/v1/events", "", "", 405, api.CodeBadRequest, "does not take POST"},
		{"GET", "/v1/events?x=1", "", "", 400, api.CodeBadRequest, `unknown parameter "x"`},
		{"GET", "/v1/status?x=1", "", "", 400, api.CodeBadRequest, `unknown parameter "x"`},
		{"GET", "/v1/processes?all=maybe", "", "", 400, api.CodeBadRequest, "neither 1 nor 0"},
		{"GET", "/v1/processes?all=1&all=0", "", "", 400, api.CodeBadRequest, "given 2 times"},
		{"GET", "/v1/explain", "", "", 400, api.CodeBadRequest, "either pid or path"},
		{"GET", "/v1/explain?pid=1&path=/x", "", "", 400, api.CodeBadRequest, "either pid or path"},
		{"GET", "/v1/explain?pid=-1", "", "", 400, api.CodeBadRequest, "not a process id"},
		{"GET", "/v1/explain?pid=9999999999", "", "", 400, api.CodeBadRequest, "not a process id"},
		{"GET", "/v1/explain?path=x", "", "", 400, api.CodeBadPath, "not absolute"},
		{"GET", "/v1/explain?path=%zz", "", "", 400, api.CodeBadRequest, "query"},
		{"POST", "/v1/exclude", js, "", 400, api.CodeBadRequest, "not a JSON object"},
		{"POST", "/v1/exclude", "", `{"paths":["/x"]}`, 415, api.CodeBadRequest, "application/json"},
		{"POST", "/v1/exclude", "text/plain", `{"paths":["/x"]}`, 415, api.CodeBadRequest, "application/json"},
		{"POST", "/v1/exclude", js, `["/x"]`, 400, api.CodeBadRequest, "not a JSON object"},
		{"POST", "/v1/exclude", js, `{}`, 400, api.CodeBadRequest, `no "paths"`},
		{"PUT", "/v1/apps", js, `{"paths":null}`, 400, api.CodeBadRequest, `no "paths"`},
		{"POST", "/v1/exclude", js, `{"paths":[]}`, 400, api.CodeBadRequest, "no path given"},
		{"POST", "/v1/exclude", js, `{"paths":["/x"],"all":true}`, 400, api.CodeBadRequest, `unknown field "all"`},
		{"POST", "/v1/exclude", js, `{"paths":["/x"]} {}`, 400, api.CodeBadRequest, "after its object"},
		{"POST", "/v1/exclude", js, `{"paths":["/x"`, 400, api.CodeBadRequest, "unexpected EOF"},
		{"POST", "/v1/exclude", js, `{"paths":[1]}`, 400, api.CodeBadRequest, "number"},
		{"POST", "/v1/exclude", js, "{\"paths\":[\"/\xff\"]}", 400, api.CodeBadRequest, "UTF-8"},
		{"POST", "/v1/exclude", js, `{"paths":["/x","y"]}`, 400, api.CodeBadPath, "not absolute"},
		{"POST", "/v1/include", js, `{"paths":[""]}`, 400, api.CodeBadPath, "empty"},
		{"PUT", "/v1/apps", js, `{"paths":["/x\u0000"]}`, 400, api.CodeBadPath, "NUL"},
		{"PUT", "/v1/apps", js, `{"paths":["` + long + `"]}`, 400, api.CodeBadPath, "longer"},
		{"POST", "/v1/exclude", js, strings.Repeat(" ", maxBody+1), 413, api.CodeBadRequest, "larger"},
	} {
		status, got := raw(t, c, tt.method, tt.target, tt.contentType, tt.body)
		if status != tt.status || got.Code != tt.code || !strings.Contains(got.Message, tt.says) {
			t.Errorf("%s %s %.40q: %d %+v, want %d %s %q", tt.method, tt.target, tt.body, status, got, tt.status, tt.code, tt.says)
		}
	}
}

func TestEventsBeginWithTheStateAndEndWithTheDaemon(t *testing.T) {
	e, c := serve(t, -1)
	e.SetStatus(api.Status{State: api.Engaged})
	var got []string
	for ev, err := range c.Events(t.Context()) {
		if err != nil {
			if !errors.Is(err, api.ErrNoDaemon) {
				t.Errorf("the stream ends with %v", err)
			}
			break
		}
		got = append(got, string(ev.Kind)+" "+ev.Text+ev.Exe)
		if len(got) == 1 {
			e.Emit(controltest.Classified(7, "/bin/x", "/bin/x"))
			e.EndEvents()
		}
	}
	if d := cmp.Diff([]string{"state engaged", "classified /bin/x"}, got); d != "" {
		t.Errorf("events (-want +got)\n%s", d)
	}
}

func TestStopEndsStreams(t *testing.T) {
	e := &controltest.Engine{}
	l, err := listen(t.Context(), filepath.Join(t.TempDir(), "s"), -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, e, slog.New(slog.DiscardHandler)) }()
	c := &api.Client{Socket: l.Path()}
	var last error
	for _, err := range c.Events(t.Context()) {
		stop()
		last = err
	}
	if !errors.Is(last, api.ErrNoDaemon) {
		t.Errorf("the stream ends with %v", last)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(grace + time.Second):
		t.Error("Serve does not end")
	}
}

func TestStreamEndsWithItsCaller(t *testing.T) {
	_, c := serve(t, -1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for ev, err := range c.Events(ctx) {
		if ev.Kind == api.EventState {
			cancel()
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, %v", ev, err)
		}
	}
	for range c.Events(t.Context()) {
		break
	}
}
