package raid

import "time"

// Progress is how far work of a known size is.
type Progress struct {
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; may grow while the array is written to
	Stage string `json:"stage"`
}

// Status is the state of an array at one moment.
type Status struct {
	ID        string         `json:"id"`
	Level     int            `json:"level"`
	Width     int            `json:"width"`
	Chunk     int            `json:"chunk"` // bytes
	Count     uint64         `json:"count"` // event count
	State     string         `json:"state"` // healthy, degraded, rebuilding, failed
	ReadOnly  bool           `json:"read_only"`
	NoRoom    bool           `json:"no_room"` // a member was full at the last attempt to write
	Members   []MemberStatus `json:"members"`
	Spares    []MemberStatus `json:"spares"`
	Files     int            `json:"files"`
	Stripes   int64          `json:"stripes"`
	AtRisk    int64          `json:"at_risk"` // stripes that lack a chunk
	Bytes     int64          `json:"bytes"`   // of the files
	LastScrub time.Time      `json:"last_scrub"`
	Scrub     *Progress      `json:"scrub,omitempty"`
	Rebuild   *Progress      `json:"rebuild,omitempty"`
	Reason    string         `json:"reason,omitempty"` // why the state is not healthy
}

// MemberStatus is the state of one member or spare.
type MemberStatus struct {
	Slot           int       `json:"slot"` // -1: a spare
	ID             string    `json:"id"`
	Path           string    `json:"path"`
	State          string    `json:"state"` // live, rebuilding, failed, stale, missing, blank, foreign, spare
	ReadErrors     int64     `json:"read_errors"`
	WriteErrors    int64     `json:"write_errors"`
	ChecksumErrors int64     `json:"checksum_errors"`
	Healed         int64     `json:"healed"`
	AtRisk         int64     `json:"at_risk"` // stripes that lack this member's chunk
	LastScrub      time.Time `json:"last_scrub"`
	Reason         string    `json:"reason,omitempty"`
}
