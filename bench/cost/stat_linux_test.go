package main

import "testing"

func TestSpreadIsTheMedianAndTheMiddleHalf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{7}, spread{7, 7, 7, 1}},
		{[]float64{5, 1, 3}, spread{3, 2, 4, 3}},
		{[]float64{4, 1, 3, 2, 5, 9}, spread{3.5, 2.25, 4.75, 6}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("spread of %v: %+v, want %+v", c.values, got, c.want)
		}
	}
}

func TestTimesAreWrittenAsPeopleSayThem(t *testing.T) {
	t.Parallel()
	for ns, want := range map[float64]string{
		47: "47 ns", 1234: "1.23 µs", 45_678: "46 µs", 12_345_678: "12.3 ms", 1.5e9: "1.50 s",
	} {
		if got := nanoseconds(ns); got != want {
			t.Errorf("%v ns: %q, want %q", ns, got, want)
		}
	}
}
