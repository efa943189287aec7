package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalLinesBearTheirPriority(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newJournalHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})).With("a", 1).WithGroup("g")
	log.Debug("not this")
	log.Info("one", "level", 2)
	log.Warn("two\nlines")
	log.Error("three")
	log.Log(t.Context(), slog.LevelError+4, "four")
	want := "<6>msg=one a=1 g.level=2\n<4>msg=\"two\\nlines\" a=1\n<3>msg=three a=1\n<3>msg=four a=1\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	stream := fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
	if !isJournal(f, stream) {
		t.Error("the journal's stream is not recognised")
	}
	if isJournal(f, "1:2") || isJournal(f, "") || isJournal(&bytes.Buffer{}, stream) {
		t.Error("something else is taken for the journal")
	}
}
