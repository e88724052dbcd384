package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/httpapi"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/telemetry"
)

// Bounds of a transaction.
// Spec: server-server-api#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxTransaction: 50 events of 64 KiB whose every byte is escaped, and 100 EDUs of the same size.
	maxTransaction = 32 << 20
	// maxAnswers is how many answers are remembered for one server, so that a transaction that comes again is not worked
	// through again: a server sends one after the other. maxSenders is for how many servers that is done.
	maxAnswers = 20
	maxSenders = 2000
	// maxRooms is how many rooms of one transaction take in events at the same time.
	maxRooms = 8
	// transactionTime bounds the work on one; a sender gives up after about a minute and comes again.
	transactionTime = 3 * time.Minute
	// maxUnderWay bounds the transactions of one server that are worked on or wait at the same time.
	maxUnderWay = 10
)

func (a *API) transactionsRoutes() []httpapi.Route {
	r := route("PUT", v1+"/send/{txnId}", "sendTransaction", "transactions.yaml", a.sendTransaction)
	r.MaxBody = maxTransaction
	return []httpapi.Route{r}
}

var (
	transactionsTotal = telemetry.NewCounterVec("ebb_federation_received_transactions_total", "Transactions of other servers, by result (taken, repeated, refused).", "result")
	receivedSeconds   = telemetry.NewHistogram("ebb_federation_received_seconds", "Time of the work on one transaction of another server.", telemetry.Seconds())
	edusTotal         = telemetry.NewCounterVec("ebb_federation_received_edus_total", "Ephemeral data of other servers, by result (taken, refused, unknown).", "result")
)

// pduResult says what became of one event.
type pduResult struct {
	Error string `json:"error,omitempty"`
}

type transactionAnswer struct {
	PDUs map[id.EventID]pduResult `json:"pdus"`
}

// sendTransaction takes in events and ephemeral data of another server. One that is bad never harms the others.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (a *API) sendTransaction(r *httpapi.Request) (any, error) {
	var body struct {
		Origin string            `json:"origin"`
		PDUs   []json.RawMessage `json:"pdus"`
		EDUs   []json.RawMessage `json:"edus"`
	}
	if err := r.DecodeEvents(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Origin != "" && body.Origin != r.Server:
		return nil, mxerr.Forbidden("The origin of the transaction must be your own server")
	case len(body.PDUs) > maxPDUs || len(body.EDUs) > maxEDUs:
		transactionsTotal.WithLabelValues("refused").Inc()
		return nil, mxerr.InvalidParam("A transaction must not have more than %d PDUs and %d EDUs", maxPDUs, maxEDUs)
	}
	ctx := context.WithoutCancel(r.Context())
	return a.transactions.once(r.Context(), transactionKey{r.Server, r.Var("txnId")}, func() (transactionAnswer, error) {
		defer func(start time.Time) { receivedSeconds.Observe(time.Since(start).Seconds()) }(time.Now())
		ctx, cancel := context.WithTimeout(ctx, transactionTime)
		defer cancel()
		receipts, others := a.sortEDUs(body.EDUs)
		a.takeEDUs(ctx, r.Server, others) // messages between devices do not wait for events
		answer, err := a.takePDUs(ctx, r.Server, body.PDUs)
		a.takeEDUs(ctx, r.Server, receipts) // of events that may have come with them
		return answer, err
	})
}

// takePDUs gives the events to their rooms, which work at the same time. The error says that this server could not store
// them: the other one is to send them again.
func (a *API) takePDUs(ctx context.Context, origin string, pdus []json.RawMessage) (transactionAnswer, error) {
	byRoom := map[id.RoomID][]json.RawMessage{}
	for _, raw := range pdus {
		if room := a.roomOf(raw); room != "" {
			byRoom[room] = append(byRoom[room], raw)
		}
	}
	answer := transactionAnswer{PDUs: map[id.EventID]pduResult{}}
	var failed error
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(maxRooms)
	for room, raws := range byRoom {
		all.Go(func() error {
			results, err := a.receive(ctx, origin, room, raws)
			mu.Lock()
			defer mu.Unlock()
			for eventID, err := range results {
				answer.PDUs[eventID] = resultOf(err)
			}
			switch {
			case errors.Is(err, storage.ErrFull), errors.Is(err, storage.ErrClosed):
				failed = err
			case mayTryAgain(err) && a.Rooms.ServerIn(ctx, room, origin):
				a.later.add(time.Now(), laterKey{origin, room}, raws)
			}
			return nil
		})
	}
	err := all.Wait()
	return answer, errors.Join(err, failed)
}

// mayTryAgain tells of an error that events were not judged for a reason that may pass. What cost a panic costs another one.
func mayTryAgain(err error) bool {
	return err != nil && mxerr.Code(err) == "" && !errors.Is(err, errPanic)
}

var errPanic = errors.New("panic")

// receive gives events to their room. A panic there costs the events, not the server.
func (a *API) receive(ctx context.Context, origin string, room id.RoomID, raws []json.RawMessage) (results map[id.EventID]error, err error) {
	defer func() {
		if v := recover(); v != nil {
			a.Log.ErrorContext(ctx, "panic while events were taken in", "room", room, "server", origin, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, v)
			results = a.Rooms.Refused(ctx, room, raws, nil, errInternal)
		}
	}()
	if results, err = a.Rooms.Receive(ctx, origin, room, raws); err != nil {
		a.Log.DebugContext(ctx, "events were not taken in", "room", room, "server", origin, "events", len(raws), "err", err)
		results = a.Rooms.Refused(ctx, room, raws, results, err)
	}
	return results, err
}

var errInternal = errors.New("internal server error")

// resultOf is what the sender is told of one event: never more than the kind of fault. That the room's rules refuse it is none: the event
// was judged, as the sender's own server does.
func resultOf(err error) pduResult {
	var known *mxerr.Error
	switch {
	case err == nil, rooms.IsVerdict(err):
		return pduResult{}
	case errors.As(err, &known):
		return pduResult{known.Msg}
	}
	return pduResult{"The event was refused: " + err.Error()}
}

// roomOf is the room of an event that need not be good. The create event of a version 12 room names none, and is never sent
// by itself.
func (a *API) roomOf(raw json.RawMessage) id.RoomID {
	if len(raw) == 0 || raw[0] != '{' {
		return ""
	}
	value, _ := canonjson.Get(raw, "room_id")
	room, _ := canonjson.Unquote(value)
	return id.RoomID(room)
}

// ephemeral is an EDU.
type ephemeral struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// sortEDUs takes the EDUs of a transaction apart: those that are about events, and the others.
func (a *API) sortEDUs(raws []json.RawMessage) (receipts, others []ephemeral) {
	for _, raw := range raws {
		var edu ephemeral
		switch err := httpapi.DecodeJSON(raw, &edu); {
		case err != nil || len(edu.Content) == 0 || edu.Content[0] != '{':
			edusTotal.WithLabelValues("refused").Inc()
		case edu.Type == "m.receipt":
			receipts = append(receipts, edu)
		default:
			others = append(others, edu)
		}
	}
	return receipts, others
}

// takeEDUs gives ephemeral data to who knows its type.
// Spec: server-server-api#edus
func (a *API) takeEDUs(ctx context.Context, origin string, edus []ephemeral) {
	for _, edu := range edus {
		take := a.EDUs[edu.Type]
		if take == nil {
			edusTotal.WithLabelValues("unknown").Inc()
			continue
		}
		if err := take(ctx, origin, edu.Content); err != nil {
			edusTotal.WithLabelValues("refused").Inc()
			a.Log.DebugContext(ctx, "ephemeral data was not taken in", "type", edu.Type, "server", origin, "err", err)
			continue
		}
		edusTotal.WithLabelValues("taken").Inc()
	}
}

type transactionKey struct{ server, txn string }

// transactions remembers what was answered, and processes the transactions of one server one after the other.
type transactions struct {
	servers *keyed.Semaphore[string]
	answers *keyed.Map[string, []answered] // by server, the oldest first; the lists are never written to again
}

type answered struct {
	txn    string
	answer transactionAnswer
}

func newTransactions() *transactions {
	return &transactions{servers: keyed.NewSemaphore[string](1, maxUnderWay), answers: keyed.NewMap[string, []answered](maxSenders)}
}

// once works on a transaction unless it was answered before. One that comes again meanwhile waits for the first.
//
// Errors: M_LIMIT_EXCEEDED.
func (t *transactions) once(ctx context.Context, key transactionKey, work func() (transactionAnswer, error)) (any, error) {
	leave, err := t.servers.Acquire(ctx, key.server)
	if errors.Is(err, keyed.ErrBusy) {
		transactionsTotal.WithLabelValues("refused").Inc()
		err = mxerr.LimitExceeded(time.Second)
	}
	if err != nil {
		return nil, err
	}
	defer leave()
	before, _ := t.answers.Get(key.server)
	for _, a := range before {
		if a.txn == key.txn {
			transactionsTotal.WithLabelValues("repeated").Inc()
			return a.answer, nil
		}
	}
	answer, err := work()
	if err != nil {
		transactionsTotal.WithLabelValues("refused").Inc()
		return nil, err
	}
	before = before[max(0, len(before)-maxAnswers+1):]
	t.answers.Put(key.server, append(slices.Clone(before), answered{key.txn, answer}))
	transactionsTotal.WithLabelValues("taken").Inc()
	return answer, nil
}
