package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"sidestep/api"
	"sidestep/policy"
)

// A call answers one request: with a document, or with an error.
type call func(ctx context.Context, r *http.Request) (any, error)

// handler is the table of calls. Whoever may not call learns nothing else, not even whether the call exists.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	for path, methods := range map[string]map[string]call{
		"/v1/status":    {http.MethodGet: s.status},
		"/v1/apps":      {http.MethodGet: s.apps, http.MethodPut: s.change("replace", 0, s.engine.Replace)},
		"/v1/processes": {http.MethodGet: s.processes},
		"/v1/explain":   {http.MethodGet: s.explain},
		"/v1/exclude":   {http.MethodPost: s.change("exclude", 1, s.engine.Exclude)},
		"/v1/include":   {http.MethodPost: s.change("include", 1, s.engine.Include)},
		"/v1/launch":    {http.MethodPost: s.launch},
	} {
		mux.Handle(path, s.oneOf(methods))
	}
	mux.HandleFunc("/v1/events", s.events)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no such call: %q", r.URL.Path)})
	})
	return s.authorized(mux)
}

// authorized lets the callers pass that access allows.
func (s *server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := peerFrom(r.Context())
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if !s.access.allows(p) {
			s.log.Warn("call refused", "call", r.Method+" "+r.URL.Path, "uid", p.uid, "pid", p.pid)
			s.fail(w, r, forbidden(p))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func forbidden(p *peer) error {
	return &api.Error{
		Code:    api.CodeForbidden,
		Message: fmt.Sprintf("user %d may not control sidestep", p.uid),
		Hint:    fmt.Sprintf("be root or a member of the group %q", Group),
	}
}

// oneOf picks the call by the request's method.
func (s *server) oneOf(methods map[string]call) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := methods[r.Method]
		if !ok {
			for m := range methods {
				w.Header().Add("Allow", m)
			}
			s.fail(w, r, badRequest(http.StatusMethodNotAllowed, "%s does not take %s", r.URL.Path, r.Method))
			return
		}
		if r.ContentLength != 0 {
			bodyDeadline(w, r)
		}
		doc, err := answer(r.Context(), r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.write(w, r, http.StatusOK, doc)
	})
}

func (s *server) status(ctx context.Context, r *http.Request) (any, error) {
	if err := onlyQuery(r); err != nil {
		return nil, err
	}
	st, err := s.engine.Status(ctx)
	st.Version, st.Tunnels, st.Warnings = api.Version, list(st.Tunnels), list(st.Warnings)
	if st.Counters == nil {
		st.Counters = map[string]uint64{}
	}
	return st, err
}

func (s *server) apps(ctx context.Context, r *http.Request) (any, error) {
	if err := onlyQuery(r); err != nil {
		return nil, err
	}
	a, err := s.engine.Apps(ctx)
	a.Version, a.Apps = api.Version, list(a.Apps)
	return a, err
}

func (s *server) processes(ctx context.Context, r *http.Request) (any, error) {
	if err := onlyQuery(r, "all"); err != nil {
		return nil, err
	}
	all := false
	if v := r.URL.Query().Get("all"); v != "" {
		var err error
		if all, err = strconv.ParseBool(v); err != nil {
			return nil, badRequest(http.StatusBadRequest, "all=%q is neither 1 nor 0", v)
		}
	}
	p, err := s.engine.Processes(ctx, all)
	p.Version, p.Processes = api.Version, list(p.Processes)
	return p, err
}

func (s *server) explain(ctx context.Context, r *http.Request) (any, error) {
	if err := onlyQuery(r, "pid", "path"); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	if q.Has("pid") == q.Has("path") {
		return nil, badRequest(http.StatusBadRequest, "explain takes either pid or path")
	}
	e, err := s.explainOne(ctx, q)
	e.Version = api.Version
	return e, err
}

func (s *server) explainOne(ctx context.Context, q url.Values) (api.Explanation, error) {
	if q.Has("path") {
		app, err := policy.ParsePath(q.Get("path"))
		if err != nil {
			return api.Explanation{}, &api.Error{Code: api.CodeBadPath, Message: err.Error()}
		}
		return s.engine.ExplainPath(ctx, app.Path)
	}
	pid, err := strconv.ParseInt(q.Get("pid"), 10, 32)
	if err != nil || pid <= 0 {
		return api.Explanation{}, badRequest(http.StatusBadRequest, "pid %q is not a process id", q.Get("pid"))
	}
	return s.engine.ExplainPID(ctx, int(pid))
}

// change answers a call that changes the policy. A caller that hangs up does not stop a change halfway.
func (s *server) change(verb string, least int, do func(context.Context, []string) (api.Changes, error)) call {
	return func(ctx context.Context, r *http.Request) (any, error) {
		if err := onlyQuery(r); err != nil {
			return nil, err
		}
		body, err := readBody(r)
		if err != nil {
			return nil, err
		}
		paths, err := decodePaths(body, least)
		if err != nil {
			return nil, err
		}
		ch, err := do(context.WithoutCancel(ctx), paths)
		s.audit(ctx, verb, err, "paths", paths)
		ch.Version, ch.Changes = api.Version, list(ch.Changes)
		return ch, err
	}
}

// launch makes the caller's own process excluded. The body must be empty: there is nobody else to name.
func (s *server) launch(ctx context.Context, r *http.Request) (any, error) {
	if err := onlyQuery(r); err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		if err := decode(body, &struct{}{}); err != nil {
			return nil, err
		}
	}
	p, err := peerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.alive(); err != nil {
		return nil, badRequest(http.StatusBadRequest, "%v", err)
	}
	err = s.engine.Launch(context.WithoutCancel(ctx), p.pid)
	s.audit(ctx, "launch", err)
	return api.Launched{Version: api.Version, PID: p.pid}, err
}

// audit notes who changed what.
func (s *server) audit(ctx context.Context, verb string, err error, keys ...any) {
	p, perr := peerFrom(ctx)
	if perr != nil {
		return
	}
	keys = append([]any{"call", verb, "uid", p.uid, "pid", p.pid}, keys...)
	if err != nil {
		s.log.Warn("call not done", append(keys, "err", err)...)
		return
	}
	s.log.Info("call done", keys...)
}

// write sends a document.
func (s *server) write(w http.ResponseWriter, r *http.Request, status int, doc any) {
	b, err := json.Marshal(doc)
	if err != nil {
		s.log.Error("answer not encoded", "call", r.URL.Path, "err", err)
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // the caller may have hung up: nothing to be done
}

// fail sends an error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var rude *requestError
	if errors.As(err, &rude) {
		s.write(w, r, rude.status, rude.body)
		return
	}
	var e *api.Error
	if !errors.As(err, &e) {
		if r.Context().Err() != nil {
			return // the caller hung up
		}
		s.log.Error("call failed", "call", r.URL.Path, "err", err)
		e = &api.Error{Code: api.CodeInternal, Message: err.Error()}
	}
	s.write(w, r, statusOf(e.Code), e)
}

func statusOf(c api.ErrorCode) int {
	switch c {
	case api.CodeBadPath, api.CodeBadRequest:
		return http.StatusBadRequest
	case api.CodeForbidden:
		return http.StatusForbidden
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// list makes an empty list of no list: a document never holds null where a list belongs.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
