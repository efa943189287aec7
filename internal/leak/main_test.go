package leak_test

import (
	"flag"
	"os"
	"testing"

	"sidestep/internal/lab/labtest"
)

// long is for whoever has the time to look for what happens once in a hundred thousand starts.
var long = flag.Bool("long", false, "make the loops twenty times as long")

func TestMain(m *testing.M) {
	code := labtest.Main(m)
	os.RemoveAll(builtDir())
	os.Exit(code)
}

// times is n, or twenty times that.
func times(n int) int {
	if *long {
		return 20 * n
	}
	return n
}
