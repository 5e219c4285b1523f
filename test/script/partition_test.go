package script

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"
)

// drill partition: the others get another master while the isolated one goes on
// acknowledging; what it acknowledged is counted, named and saved when it comes
// back as a replica.
func TestDrillPartition(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a minute")
	}
	dir, base := t.TempDir(), freeBase(t, 3)
	d := startUp(t, dir, base)
	out, err := exec.Command(binary, "drill", "partition", "--dir", dir, "--pause", "3s", "--json").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("drill: %v\n%s", err, out)
	}
	var r struct {
		OldMaster string   `json:"old_master"`
		NewMaster string   `json:"new_master"`
		Back      int      `json:"writes_back_after_ms"`
		Healed    int      `json:"healed_after_ms"`
		Acked     int      `json:"acknowledged"`
		Lost      int      `json:"lost"`
		LostSaved int      `json:"lost_saved"`
		Isolated  int      `json:"acknowledged_by_isolated_master"`
		IsoLost   int      `json:"isolated_lost"`
		IsoSaved  int      `json:"isolated_saved"`
		Files     []string `json:"divergence_files"`
		Rejoined  bool     `json:"old_master_rejoined"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%+v", r)
	if err != nil || r.OldMaster == r.NewMaster || r.Back < 0 || r.Healed < r.Back || r.Acked == 0 || r.Isolated == 0 || !r.Rejoined {
		t.Errorf("the report makes no sense (%v): %s", err, out)
	}
	if r.IsoLost == 0 || r.IsoSaved != r.IsoLost || r.LostSaved != r.Lost || len(r.Files) == 0 {
		t.Errorf("writes of the isolated master were lost in silence: %s", out)
	}
	for _, f := range r.Files {
		if fi, err := os.Stat(f); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", f, err)
		}
	}
	d.stop()
}
