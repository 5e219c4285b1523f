package cluster

// Mutants is a set of deliberate mistakes, each one that a cluster node has
// been or could be written with.
type Mutants struct {
	VoteTwice          bool // vote for everybody who asks in an epoch
	VoteWithoutFail    bool // vote though the candidate's master is not FAIL
	SkipVoteEpochCheck bool // vote for a request of an old epoch
	SkipVoteSlotCheck  bool // vote for a candidate whose slots are outdated
	ForgetVote         bool // do not persist a vote
	PersistAfterSend   bool // send before the state is durable
	StaleSlotClaim     bool // let a claim of an older config epoch take slots
	DefyHeir           bool // a replaced master that has the epoch of its successor takes the next one
	NoCollisionRule    bool // leave two masters on one config epoch
	DoubleReports      bool // count a reporter of a failure more than once
	ReportsNeverExpire bool // count failure reports for ever
	FailWithoutQuorum  bool // FAIL on the word of one node alone
	QuorumByHalf       bool // win with half of the masters instead of a majority
	CountStaleVotes    bool // count votes of earlier epochs
	StaleDataElection  bool // stand for election with data that is too old
	IgnoreRank         bool // stand for election at once, whatever the rank
	ForgetWithoutBan   bool // do not ban a forgotten node
	KeepOldMaster      bool // a master that lost its slots does not follow
	NoUpdate           bool // do not answer stale claims with UPDATE
	NeverClearFail     bool // leave a node FAIL that came back
	MinorityStaysOK    bool // stay ok in a minority
	NoEpochBump        bool // take over the slots without the epoch of the election
	BelieveGiver       bool // claim what was given away, and believe who does
	BelieveReplaced    bool // let a node that was replaced have what its successor gave away
	ForgetGiven        bool // a claim of a smaller epoch than ours, of what we gave away, may be lost in a power cut
	InheritAll         bool // an heir takes slots that its master did not claim any more
	KeepCopies         bool // an heir keeps the keys of slots that went to others before it took its master's place
	TakeClaimedOnly    bool // do not take slots whose owner in our eyes has let them go long ago
	StaleImport        bool // do not learn who took an importing slot over
	FailoverAnyMaster  bool // stand though the own master is not FAIL
}
