// Package plot draws curves as SVG, in panels: two next to each other, and as many rows as it takes.
package plot

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"
)

// A Figure is what is drawn into one file. The ground follows what the reader prefers, light or dark.
type Figure struct {
	Title  string
	Curves []string // their names, for the legend
	Panels []Panel
	Footer string
}

// A Panel shows some of the figure's curves over the same steps, which lie at equal distances.
type Panel struct {
	Title  string
	Steps  []string
	Top    float64     // of the scale, which begins at 0; 0 means that it fits the values
	Values [][]float64 // of each curve of the figure, in its order; nil if it is not in this panel
}

// The measures, in pixels.
const (
	figureWidth             = 900
	panelWidth, panelHeight = 360, 200
	left, right             = 64, 440 // where a row begins, and from one panel to the next
	down                    = 262     // from one row to the next
	perRow, column, row     = 3, 200, 20
)

// colours are legible on a light and on a dark ground.
func colours() []string {
	return []string{"#8b949e", "#e5534b", "#d4880c", "#a475f9", "#539bf5", "#2da44e"}
}

// SVG draws the figure. It can draw six curves.
func (f Figure) SVG() []byte {
	var b bytes.Buffer
	top := 92 + (len(f.Curves)+perRow-1)/perRow*row - row
	height := top + (len(f.Panels)+1)/2*down + 24
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<title>%s</title>
<style>
.ground { fill: #ffffff } .text { fill: #24292f } .grid { stroke: #d0d7de }
@media (prefers-color-scheme: dark) { .ground { fill: #161b22 } .text { fill: #e6edf3 } .grid { stroke: #3d444d } }
</style>
<rect class="ground" width="%d" height="%d" rx="8"/>
<text class="text" x="24" y="32" font-size="16" font-weight="bold">%s</text>
`, figureWidth, height, html.EscapeString(f.Title), figureWidth, height, html.EscapeString(f.Title))
	for i, name := range f.Curves {
		x, y := 24+i%perRow*column, 50+i/perRow*row
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"18\" height=\"4\" fill=\"%s\"/>\n", x, y, colours()[i])
		fmt.Fprintf(&b, "<text class=\"text\" x=\"%d\" y=\"%d\">%s</text>\n", x+26, y+6, html.EscapeString(name))
	}
	for i, p := range f.Panels {
		fmt.Fprintf(&b, "<g transform=\"translate(%d %d)\">\n", left+i%2*right, top+20+i/2*down)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	fmt.Fprintf(&b, "<text class=\"text\" x=\"24\" y=\"%d\" font-size=\"11\">%s</text>\n</svg>\n", height-10, html.EscapeString(f.Footer))
	return b.Bytes()
}

func (p Panel) draw(b *bytes.Buffer) {
	fmt.Fprintf(b, "<text class=\"text\" x=\"0\" y=\"-10\">%s</text>\n", html.EscapeString(p.Title))
	scale := p.scale()
	for i := range 5 {
		y := panelHeight - i*panelHeight/4
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"0\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", panelWidth, y, y)
		fmt.Fprintf(b, "<text class=\"text\" x=\"-8\" y=\"%d\" text-anchor=\"end\">%.4g</text>\n", y+4, scale*float64(i)/4)
	}
	for i, step := range p.Steps {
		fmt.Fprintf(b, "<text class=\"text\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
			p.x(i), panelHeight+18, html.EscapeString(step))
	}
	for i, values := range p.Values {
		if len(values) == 0 {
			continue
		}
		points := make([]string, len(values))
		for j, v := range values {
			points[j] = fmt.Sprintf("%d,%.1f", p.x(j), panelHeight-v/scale*panelHeight)
		}
		width := 2 + float64(len(p.Values)-1-i)*0.8 // earlier ones are broader, so that those below others are seen
		fmt.Fprintf(b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-linejoin=\"round\"/>\n",
			strings.Join(points, " "), colours()[i], width)
	}
}

func (p Panel) x(step int) int { return 10 + step*(panelWidth-20)/max(1, len(p.Steps)-1) }

// scale returns the top of the scale: four times 1, 2, 2.5 or 5 of some power of ten.
func (p Panel) scale() float64 {
	if p.Top > 0 {
		return p.Top
	}
	most := 0.0
	for _, values := range p.Values {
		for _, v := range values {
			most = max(most, v)
		}
	}
	if most == 0 {
		return 4
	}
	unit := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, step := range []float64{1, 2, 2.5, 5} {
		if 4*step*unit >= most {
			return 4 * step * unit
		}
	}
	return 40 * unit
}
