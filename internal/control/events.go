package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"sidestep/api"
)

// events streams what happens, one document per line. The first line is the state as it is: the stream is
// subscribed before that is read, so that nothing falls between.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		s.fail(w, r, badRequest(http.StatusMethodNotAllowed, "%s does not take %s", r.URL.Path, r.Method))
		return
	}
	if err := onlyQuery(r); err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	stream := s.engine.Events(ctx)
	st, err := s.engine.Status(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	first := api.Event{Version: api.Version, Time: time.Now(), Kind: api.EventState, Text: string(st.State)}
	if sendEvent(w, first) != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-stream:
			if !ok || sendEvent(w, ev) != nil {
				return
			}
		}
	}
}

// sendEvent writes one line, and sees that it leaves. A caller who does not read is let go.
func sendEvent(w http.ResponseWriter, ev api.Event) error {
	ev.Version = api.Version
	b, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return err
	}
	return rc.Flush()
}
