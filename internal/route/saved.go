package route

// Saved is what [Actuator.Set] changed that was not ours, with what was there before. The caller keeps it
// where a crash does not lose it: see [New].
type Saved struct {
	Sysctls []SavedSysctl `json:"sysctls,omitempty"`
}

// A SavedSysctl remembers one file below /proc/sys.
type SavedSysctl struct {
	Path     string `json:"path"`
	Original string `json:"original"`
	// Ours is what we wrote. If something else is there, somebody else has decided since, and it stays.
	Ours string `json:"ours"`
}
