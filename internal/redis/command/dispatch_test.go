package command

import (
	"reflect"
	"testing"
	"unsafe"
)

// The context of a request is one for all requests: nothing of the one before may
// be left in it.
func TestContextBeginsAnew(t *testing.T) {
	te := newTestEngine(t, 1)
	args := [][]byte{[]byte("PING")}
	var fresh, used Ctx
	v := reflect.ValueOf(&used).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
		switch f.Kind() {
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Uint8:
			f.SetUint(1)
		default:
			t.Fatalf("a field of type %v: %s", f.Type(), v.Type().Field(i).Name)
		}
	}
	fresh.begin(te.Engine, te.cl, args)
	used.begin(te.Engine, te.cl, args)
	if !sameFields(fresh, used) || fresh.Client != te.cl || fresh.DB != te.cl.DB || fresh.Reply != &te.cl.Reply || len(fresh.Args) != 1 {
		t.Errorf("something is left of the request before:\n%+v\n%+v", fresh, used)
	}
}

// sameFields compares field by field, pointers by where they point to.
func sameFields(a, b Ctx) bool {
	v, w := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range v.NumField() {
		f, g := v.Field(i), w.Field(i)
		switch f.Kind() {
		case reflect.Slice:
			if f.Len() != g.Len() || f.Pointer() != g.Pointer() {
				return false
			}
		case reflect.Pointer:
			if f.Pointer() != g.Pointer() {
				return false
			}
		default:
			if !f.Equal(g) {
				return false
			}
		}
	}
	return true
}
