package server

import "holdfast/internal/redis/replication"

// saveDivergence saves what is going to be thrown away because the new master's
// history does not have it. The engine's lock is held.
func (s *Server) saveDivergence(*replication.Offer) error { return nil }
