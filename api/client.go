package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"unicode/utf8"
)

// What keeps a client from the daemon. Errors of [Client] wrap them.
var (
	// ErrNoDaemon: nobody answers on the socket, or the daemon went away before it answered. Exit 69.
	ErrNoDaemon = errors.New("no daemon")
	// ErrNotPermitted: the caller may not use the socket, or may not do what it asked for. Exit 77.
	ErrNotPermitted = errors.New("not permitted")
)

// maxError bounds what is read of an answer that should be an [Error].
const maxError = 1 << 20

// A Client talks to the daemon. The zero value uses [DefaultSocket]. It opens one connection per call, so it
// holds nothing between calls and may be used from many goroutines.
type Client struct {
	// Socket is the path of the daemon's socket; empty means DefaultSocket.
	Socket string
	// Dial replaces the connection to Socket, for named pipes and for tests.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Status says what the engine is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Apps returns the policy.
func (c *Client) Apps(ctx context.Context) (Apps, error) {
	var a Apps
	err := c.call(ctx, http.MethodGet, "/v1/apps", nil, &a)
	return a, err
}

// Exclude adds apps to the policy. All of them, or none where there is an error.
func (c *Client) Exclude(ctx context.Context, paths []string) (Changes, error) {
	return c.change(ctx, http.MethodPost, "/v1/exclude", paths)
}

// Include takes apps out of the policy. All of them, or none where there is an error.
func (c *Client) Include(ctx context.Context, paths []string) (Changes, error) {
	return c.change(ctx, http.MethodPost, "/v1/include", paths)
}

// Replace makes paths the whole policy in one step.
func (c *Client) Replace(ctx context.Context, paths []string) (Changes, error) {
	return c.change(ctx, http.MethodPut, "/v1/apps", paths)
}

// Processes returns the live processes that are not simply included, or with all every one.
func (c *Client) Processes(ctx context.Context, all bool) (Processes, error) {
	call := "/v1/processes"
	if all {
		call += "?all=1"
	}
	var p Processes
	err := c.call(ctx, http.MethodGet, call, nil, &p)
	return p, err
}

// ExplainPID says why a process is on its side.
func (c *Client) ExplainPID(ctx context.Context, pid int) (Explanation, error) {
	var e Explanation
	err := c.call(ctx, http.MethodGet, "/v1/explain?pid="+strconv.Itoa(pid), nil, &e)
	return e, err
}

// ExplainPath says on which side a program at path starts, and why.
func (c *Client) ExplainPath(ctx context.Context, path string) (Explanation, error) {
	var e Explanation
	err := c.call(ctx, http.MethodGet, "/v1/explain?path="+url.QueryEscape(path), nil, &e)
	return e, err
}

// Launch makes the calling process excluded, and with it all that it starts or becomes by exec. The daemon takes
// the process from the connection, so nobody can launch on behalf of another.
func (c *Client) Launch(ctx context.Context) error {
	var l Launched
	return c.call(ctx, http.MethodPost, "/v1/launch", nil, &l)
}

// Events streams what happens until ctx ends, the caller stops or the daemon goes away. The last pair holds the
// error, unless the caller stopped first; when ctx ends, that is ctx.Err().
func (c *Client) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		body, err := c.send(ctx, http.MethodGet, "/v1/events", nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer body.Close()
		for dec := json.NewDecoder(body); ; {
			var ev Event
			if err := dec.Decode(&ev); err != nil {
				yield(Event{}, c.broken(ctx, "/v1/events", err))
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}

func (c *Client) change(ctx context.Context, method, call string, paths []string) (Changes, error) {
	for _, p := range paths {
		if !utf8.ValidString(p) {
			return Changes{}, &Error{Code: CodeBadPath, Message: fmt.Sprintf("%q: path is not valid UTF-8", p)}
		}
	}
	if paths == nil {
		paths = []string{}
	}
	var ch Changes
	err := c.call(ctx, method, call, Paths{Paths: paths}, &ch)
	return ch, err
}

// call sends one request and decodes its answer.
func (c *Client) call(ctx context.Context, method, call string, in, out any) error {
	body, err := c.send(ctx, method, call, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return c.broken(ctx, call, err)
	}
	return nil
}

// send sends one request and returns the body of a 2xx answer. The caller closes it.
func (c *Client) send(ctx context.Context, method, call string, in any) (io.ReadCloser, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", call, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sidestep"+call, body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", call, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		return nil, c.broken(ctx, call, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusal(call, resp)
	}
	return resp.Body, nil
}

func (c *Client) socket() string {
	if c.Socket == "" {
		return DefaultSocket
	}
	return c.Socket
}

func (c *Client) transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if c.Dial != nil {
				return c.Dial(ctx)
			}
			return new(net.Dialer).DialContext(ctx, "unix", c.socket())
		},
	}
}

// broken says why there is no answer, or no whole one.
func (c *Client) broken(ctx context.Context, call string, err error) error {
	var errno syscall.Errno
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("use %s: %w: %w", c.socket(), ErrNotPermitted, cause(err))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w on %s: it went away while answering %s", ErrNoDaemon, c.socket(), call)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w on %s: %w", ErrNoDaemon, c.socket(), cause(err))
	case errors.As(err, &errno) && errno == syscall.EINVAL:
		return fmt.Errorf("connect to %s: path is too long for a socket: %w", c.socket(), err)
	}
	return fmt.Errorf("call %s on %s: %w", call, c.socket(), err)
}

// cause peels net's own words off an error: the socket is named once, by us.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// refusal reads the Error that an answer carries.
func refusal(call string, resp *http.Response) error {
	var e Error
	err := json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(&e)
	if err != nil || e.Code == "" || e.Message == "" {
		return fmt.Errorf("call %s: the answer is %s, which is none of a sidestep daemon", call, resp.Status)
	}
	return &e
}
