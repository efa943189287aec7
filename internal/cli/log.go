package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
)

// newLog logs to stderr as text. For the journal, each line bears its priority, and the journal the time.
func (e *env) newLog(verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if !isJournal(e.Stderr, e.Getenv("JOURNAL_STREAM")) {
		return slog.New(slog.NewTextHandler(e.Stderr, o))
	}
	return slog.New(newJournalHandler(e.Stderr, o))
}

// isJournal reports whether w is the stream that the service manager connected to the journal.
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	st, err := f.Stat()
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
}

// A journalHandler has one handler per syslog priority, each with its prefix.
type journalHandler map[slog.Level]slog.Handler

func newJournalHandler(w io.Writer, o *slog.HandlerOptions) journalHandler {
	opts := *o
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	h := journalHandler{}
	for level, n := range map[slog.Level]int{slog.LevelDebug: 7, slog.LevelInfo: 6, slog.LevelWarn: 4, slog.LevelError: 3} {
		h[level] = slog.NewTextHandler(&prefixWriter{w, fmt.Appendf(nil, "<%d>", n)}, &opts)
	}
	return h
}

// at returns the handler for a level: the one of the greatest named level that it reaches.
func (h journalHandler) at(l slog.Level) slog.Handler {
	for _, named := range []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo} {
		if l >= named {
			return h[named]
		}
	}
	return h[slog.LevelDebug]
}

func (h journalHandler) each(f func(slog.Handler) slog.Handler) slog.Handler {
	out := journalHandler{}
	for level, inner := range h {
		out[level] = f(inner)
	}
	return out
}

// Enabled is for slog.
func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.at(l).Enabled(ctx, l)
}

// Handle is for slog.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.at(r.Level).Handle(ctx, r)
}

// WithAttrs is for slog.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

// WithGroup is for slog.
func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

// A prefixWriter puts a prefix before everything written: slog writes one line at a time.
type prefixWriter struct {
	w      io.Writer
	prefix []byte
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append(p.prefix[:len(p.prefix):len(p.prefix)], b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
