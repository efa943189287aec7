package demo

import (
	"sidestep/internal/lab"
)

const (
	markerPort = 7000 // where markers go; they are no program's
	firstPort  = 7001 // of the ports on which the world's services answer
	lastPort   = 7040
	// deafPorts is added for programs that don't wait for an answer: nobody listens there, and so nobody answers to a
	// program that is gone.
	deafPorts = 1000
	dnsPort   = 53
)

// A side is a way out of the machine.
type side int

const (
	uplink side = iota
	tunnel
	sides
)

func (s side) String() string { return [...]string{"uplink", "tunnel"}[s] }

func (s side) other() side { return 1 - s }

// A part is one program's appearance in the story. Its packets are told from all others by the port.
type part struct {
	row  string // of the table; several parts may share one
	port uint16
	side side // where its packets belong
}

// owns reports whether the part sent the flow. Questions to a name server come from the port, all else goes there.
func (p part) owns(f lab.Flow) bool {
	return f.Direction == lab.Sent && (f.DstPort == p.port || f.SrcPort == p.port && f.DstPort == dnsPort)
}

// A census is what both wires have counted at one moment.
type census [sides]lab.Flows

// takeCensus reads both wires.
func takeCensus(w lab.Wires) (census, error) {
	var c census
	var err error
	if c[uplink], err = w.Uplink.Flows(); err != nil {
		return c, err
	}
	c[tunnel], err = w.Tunnel.Flows()
	return c, err
}

// of returns the flows of a part on one side.
func (c census) of(p part, s side) lab.Flows {
	var owned lab.Flows
	for _, f := range c[s] {
		if p.owns(f) {
			owned = append(owned, f)
		}
	}
	return owned
}

// counts are packets per side.
type counts [sides]uint64

func (c census) count(p part) counts {
	return counts{c.of(p, uplink).Count(lab.Match{}), c.of(p, tunnel).Count(lab.Match{})}
}

// A ledger knows all parts that there have been, and so whose every packet is.
type ledger struct {
	parts []part
}

// open begins a part.
func (l *ledger) open(row string, s side) part {
	p := part{row: row, port: firstPort + uint16(len(l.parts)), side: s}
	l.parts = append(l.parts, p)
	return p
}

// openDeaf begins a part of a program that sends without waiting for an answer.
func (l *ledger) openDeaf(row string, s side) part {
	p := l.open(row, s)
	p.port += deafPorts
	l.parts[len(l.parts)-1] = p
	return p
}

// A row is a line of the table.
type row struct {
	name string
	side side
	counts
}

// rows adds up the parts, in the order of their first appearance.
func (l *ledger) rows(c census) []row {
	var rows []row
	at := map[string]int{}
	for _, p := range l.parts {
		i, ok := at[p.row]
		if !ok {
			i = len(rows)
			at[p.row] = i
			rows = append(rows, row{name: p.row, side: p.side})
		}
		n := c.count(p)
		rows[i].counts[uplink] += n[uplink]
		rows[i].counts[tunnel] += n[tunnel]
	}
	return rows
}

// wrong returns how many packets were on the wrong side.
func (l *ledger) wrong(c census) uint64 {
	var n uint64
	for _, p := range l.parts {
		n += c.count(p)[p.side.other()]
	}
	return n
}

// strays returns the flows that left the machine and are nobody's part. The kernel answers in the name of programs
// that are gone, and such an answer can take a side, too.
func (l *ledger) strays(c census) lab.Flows {
	var strays lab.Flows
	for _, flows := range c {
		for _, f := range flows {
			if (lab.Match{Direction: lab.Sent, Payload: true}).Has(f) && !l.knows(f) {
				strays = append(strays, f)
			}
		}
	}
	return strays
}

func (l *ledger) knows(f lab.Flow) bool {
	if f.DstPort == markerPort {
		return true
	}
	for _, p := range l.parts {
		if p.owns(f) {
			return true
		}
	}
	return false
}
