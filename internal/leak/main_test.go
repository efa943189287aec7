package leak_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"sidestep/internal/lab/labtest"
)

var (
	// long is for whoever has the time to look for what happens once in a hundred thousand starts.
	long = flag.Bool("long", false, "make the loops twenty times as long")
	// every is for whoever has an hour or more.
	every = flag.Bool("every", false, "have every call of the kernel fail, not a sample of them")
	// loops is for machines that are slow, such as emulated ones.
	loops = flag.Float64("loops", 1, "go through this share of the loops")
)

func TestMain(m *testing.M) {
	if os.Getenv(nobodyEnv) != "" {
		fmt.Fprintln(os.Stderr, becomeNobody())
		os.Exit(1)
	}
	code := labtest.Main(m)
	os.RemoveAll(builtDir())
	os.Exit(code)
}

// times is n, or twenty times that with -long, or the share of it that -loops says.
func times(n int) int {
	if *long {
		n *= 20
	}
	return share(n)
}

// share is for loops that -long repeats as a whole.
func share(n int) int { return max(1, int(*loops*float64(n))) }
