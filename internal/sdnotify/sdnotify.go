// Package sdnotify tells the service manager how the daemon is, as sd_notify(3) describes.
package sdnotify

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Notifier sends states to the service manager. The zero value has none to send to, and sends nothing.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// New finds the service manager in the environment: NOTIFY_SOCKET, and WATCHDOG_USEC if WATCHDOG_PID is pid.
func New(getenv func(string) string, pid int) Notifier {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	if p := getenv("WATCHDOG_PID"); p != "" && p != strconv.Itoa(pid) {
		return n
	}
	if us, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 && n.socket != "" {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// Interval says how often Watchdog must be called: half of what the service manager waits. 0: never.
func (n Notifier) Interval() time.Duration { return n.watchdog / 2 }

// Ready says that the daemon is up, or has reloaded, and what it is doing.
func (n Notifier) Ready(status string) error { return n.send("READY=1", "STATUS="+status) }

// Reloading says that the daemon reads its configuration again; Ready ends that.
func (n Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	return n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// Stopping says that the daemon is on its way out.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Status says in words what the daemon is doing.
func (n Notifier) Status(status string) error { return n.send("STATUS=" + status) }

// Watchdog says that the daemon is alive.
func (n Notifier) Watchdog() error { return n.send("WATCHDOG=1") }

func (n Notifier) send(states ...string) error {
	if n.socket == "" {
		return nil
	}
	for i, s := range states {
		states[i] = strings.ReplaceAll(s, "\n", " ")
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(strings.Join(states, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
