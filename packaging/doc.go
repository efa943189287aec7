// Package packaging is the folder of what the packages install. Its tests hold the service's unit to what the daemon
// needs, and to no more; `make check-packages` installs the packages and runs the unit under systemd.
package packaging
