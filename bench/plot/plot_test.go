package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAScaleHoldsItsValuesInRoundSteps(t *testing.T) {
	for most, want := range map[float64]float64{0: 4, 0.3: 0.4, 4: 4, 4.1: 8, 99: 100, 101: 200, 390: 400, 1000: 1000, 1001: 2000, 36000: 40000} {
		p := Panel{Values: [][]float64{nil, {0, most}}}
		if got := p.scale(); got != want {
			t.Errorf("for %v: %v, want %v", most, got, want)
		}
	}
	if got := (Panel{Top: 100, Values: [][]float64{{1}}}).scale(); got != 100 {
		t.Errorf("a given scale: %v, want 100", got)
	}
}

func TestAFigureIsXMLWithACurveForEachThatHasValues(t *testing.T) {
	svg := Figure{Title: "a < b", Curves: []string{"one", "two"}, Footer: "&", Panels: []Panel{
		{Title: "x", Steps: []string{"1", "2"}, Values: [][]float64{{1, 2}, {3, 4}}},
		{Title: "y", Steps: []string{"1"}, Values: [][]float64{nil, {1}}},
	}}.SVG()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(string(svg), "<polyline "); n != 3 {
		t.Errorf("%d curves, want 3", n)
	}
}
