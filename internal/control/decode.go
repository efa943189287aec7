package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sidestep/api"
	"sidestep/policy"
)

// maxBody bounds a request's body: a hundred thousand paths, or thousands of the greatest length, and no more.
const maxBody = 16 << 20

// A requestError is a request that no engine should see, with the status that HTTP has for it.
type requestError struct {
	status int
	body   *api.Error
}

func (e *requestError) Error() string { return e.body.Message }

func badRequest(status int, format string, args ...any) error {
	return &requestError{status, &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf(format, args...)}}
}

// onlyQuery refuses parameters that the call does not know, and those given twice.
func onlyQuery(r *http.Request, known ...string) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest(http.StatusBadRequest, "query: %v", err)
	}
	for k, v := range q {
		if !slices.Contains(known, k) {
			return badRequest(http.StatusBadRequest, "unknown parameter %q", k)
		}
		if len(v) != 1 {
			return badRequest(http.StatusBadRequest, "parameter %q given %d times", k, len(v))
		}
	}
	return nil
}

// readBody reads a body that says it is JSON, within its size and time.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, badRequest(http.StatusUnsupportedMediaType, "body is not application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, badRequest(http.StatusBadRequest, "read body: %v", err)
	}
	if len(body) > maxBody {
		return nil, badRequest(http.StatusRequestEntityTooLarge, "body is larger than %d bytes", maxBody)
	}
	return body, nil
}

// bodyDeadline gives a request's body its time, and takes the limit away once it is read.
func bodyDeadline(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(headerTimeout)) != nil {
		return
	}
	r.Body = &timedBody{r.Body, func() { rc.SetReadDeadline(time.Time{}) }}
}

// A timedBody calls done at its end.
type timedBody struct {
	io.ReadCloser
	done func()
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

// decode reads one JSON object, with the fields that v knows and nothing after it.
func decode(body []byte, v any) error {
	if !utf8.Valid(body) {
		return badRequest(http.StatusBadRequest, "body is not valid UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return badRequest(http.StatusBadRequest, "body is not a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badRequest(http.StatusBadRequest, "body: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest(http.StatusBadRequest, "body has something after its object")
	}
	return nil
}

// decodePaths reads an api.Paths with at least so many paths, and returns them clean and each once. One bad path
// makes the whole body bad.
func decodePaths(body []byte, least int) ([]string, error) {
	var in api.Paths
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if in.Paths == nil {
		return nil, badRequest(http.StatusBadRequest, `body has no "paths"`)
	}
	if len(in.Paths) < least {
		return nil, badRequest(http.StatusBadRequest, "no path given")
	}
	out := make([]string, 0, len(in.Paths))
	for _, p := range in.Paths {
		app, err := policy.ParsePath(p)
		if err != nil {
			return nil, &api.Error{Code: api.CodeBadPath, Message: err.Error()}
		}
		if !slices.Contains(out, app.Path) {
			out = append(out, app.Path)
		}
	}
	return out, nil
}
