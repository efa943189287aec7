package api_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sidestep/api"
)

// answering is a client of a server that says the same to everybody.
func answering(text string) *api.Client {
	return &api.Client{Dial: func(context.Context) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			theirs.Read(make([]byte, 4096))
			io.WriteString(theirs, text)
		}()
		return mine, nil
	}}
}

func dialing(err error) *api.Client {
	return &api.Client{Dial: func(context.Context) (net.Conn, error) { return nil, err }}
}

func TestWhatKeepsAClientFromTheDaemon(t *testing.T) {
	op := func(err error) error {
		return &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", err)}
	}
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		client *api.Client
		want   error
		says   string
	}{
		"missing":      {&api.Client{Socket: filepath.Join(dir, "s")}, api.ErrNoDaemon, "s: connect: no such file or directory"},
		"refused":      {dialing(op(syscall.ECONNREFUSED)), api.ErrNoDaemon, "connection refused"},
		"denied":       {dialing(op(syscall.EACCES)), api.ErrNotPermitted, "permission denied"},
		"hung up":      {answering(""), api.ErrNoDaemon, "went away"},
		"half a body":  {answering("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"version\":"), api.ErrNoDaemon, "went away"},
		"stranger":     {answering("SSH-2.0-OpenSSH_9.9\r\n\r\n"), nil, "malformed HTTP"},
		"not JSON":     {answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), nil, "invalid character"},
		"other server": {answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi"), nil, "404 Not Found"},
		"too long":     {&api.Client{Socket: "/" + strings.Repeat("x", 200)}, nil, "too long"},
		"forbidden": {answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 38\r\n\r\n" +
			`{"code":"forbidden","message":"no ¡"}` + "\n"), api.ErrNotPermitted, "no ¡"},
	} {
		_, err := tt.client.Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
		for _, sentinel := range []error{api.ErrNoDaemon, api.ErrNotPermitted} {
			if errors.Is(err, sentinel) != (sentinel == tt.want) {
				t.Errorf("%s: %v: is %v: %v", name, err, sentinel, errors.Is(err, sentinel))
			}
		}
	}
}

func TestContextsAreObeyed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := answering("").Apps(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, api.ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
}

func TestPathsThatJSONWouldChangeAreRefused(t *testing.T) {
	c := dialing(errors.New("the daemon was called"))
	_, err := c.Exclude(t.Context(), []string{"/good", "/\xff"})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeBadPath {
		t.Errorf("got %v", err)
	}
}

func TestUnknownFieldsAndKindsPass(t *testing.T) {
	c := answering("HTTP/1.1 200 OK\r\n\r\n" +
		`{"version":1,"time":"2030-01-02T03:04:05Z","kind":"news","colour":"red","text":"x"}` + "\n")
	var got []api.Event
	for ev, err := range c.Events(t.Context()) {
		if err != nil {
			break
		}
		got = append(got, ev)
	}
	if len(got) != 1 || got[0].Kind != "news" || got[0].Text != "x" {
		t.Errorf("got %v", got)
	}
}
