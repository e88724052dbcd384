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

// These constants bound a transaction.
// Spec: server-server-api#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxTransaction bounds the body in bytes. It has room for 50 events of 64 KiB in which every byte is escaped, and
	// for 100 EDUs of the same size.
	maxTransaction = 32 << 20
	// maxAnswers bounds the responses cached for one server, which prevent a repeated transaction from being processed
	// again. A server sends one transaction after the other. maxAnswerBytes bounds those of all servers, in memory. The
	// usual 20, with an event or two each, take 5 KB.
	maxAnswers     = 20
	maxAnswerBytes = 16 << 20
	// maxRooms bounds the rooms whose events from one transaction are processed at the same time.
	maxRooms = 8
	// transactionTime bounds the processing of one transaction. A sender gives up after about a minute and repeats it.
	transactionTime = 3 * time.Minute
	// maxUnderWay bounds the transactions of one server that are being processed or waiting.
	maxUnderWay = 10
)

func (a *API) transactionsRoutes() []httpapi.Route {
	r := route("PUT", v1+"/send/{txnId}", "sendTransaction", "transactions.yaml", a.sendTransaction)
	r.MaxBody = maxTransaction
	return []httpapi.Route{r}
}

var (
	transactionsTotal = telemetry.NewCounterVec("ebb_federation_received_transactions_total", "Transactions of other servers, by result (accepted, repeated, refused).", "result")
	receivedSeconds   = telemetry.NewHistogram("ebb_federation_received_seconds", "Time of the work on one transaction of another server.", telemetry.Seconds())
	edusTotal         = telemetry.NewCounterVec("ebb_federation_received_edus_total", "Ephemeral data of other servers, by result (accepted, refused, unknown).", "result")
)

// pduResult is the result for one event.
type pduResult struct {
	Error string `json:"error,omitempty"`
}

type transactionAnswer struct {
	PDUs map[id.EventID]pduResult `json:"pdus"`
}

// sendTransaction receives events and ephemeral data from another server. An invalid item does not affect the others.
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
		othersErr := a.receiveEDUs(ctx, r.Server, others) // to-device messages need not wait for events
		answer, err := a.receivePDUs(ctx, r.Server, body.PDUs)
		receiptsErr := a.receiveEDUs(ctx, r.Server, receipts) // receipts may refer to events of the same transaction
		return answer, errors.Join(err, othersErr, receiptsErr)
	})
}

// receivePDUs passes the events to their rooms, several rooms at a time. If it returns an error, this server could not
// store events, and the other server has to send them again.
func (a *API) receivePDUs(ctx context.Context, origin string, pdus []json.RawMessage) (transactionAnswer, error) {
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
			case storage.IsOutage(err):
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

// mayTryAgain reports whether events were not checked for a temporary reason. A panic is not temporary, since it would
// happen again.
func mayTryAgain(err error) bool {
	return err != nil && mxerr.Code(err) == "" && !errors.Is(err, errPanic)
}

var errPanic = errors.New("panic")

// receive passes events to their room. If that panics, the events are lost, but the server keeps running.
func (a *API) receive(ctx context.Context, origin string, room id.RoomID, raws []json.RawMessage) (results map[id.EventID]error, err error) {
	defer func() {
		if v := recover(); v != nil {
			a.Log.ErrorContext(ctx, "Panic while receiving events", "room", room, "server", origin, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, v)
			results = a.Rooms.Refused(ctx, room, raws, nil, errInternal)
		}
	}()
	if results, err = a.Rooms.Receive(ctx, origin, room, raws); err != nil {
		a.Log.DebugContext(ctx, "Cannot process received events", "room", room, "server", origin, "events", len(raws), "err", err)
		results = a.Rooms.Refused(ctx, room, raws, results, err)
	}
	return results, err
}

var errInternal = errors.New("internal server error")

// resultOf returns the result for one event that is reported to the sender. It reveals no more than the kind of the
// fault. An event rejected by the auth rules is reported as a success, because it was processed.
func resultOf(err error) pduResult {
	var known *mxerr.Error
	switch {
	case err == nil, rooms.IsVerdict(err):
		return pduResult{}
	case errors.As(err, &known):
		return pduResult{known.Msg}
	}
	return pduResult{"The event was rejected: " + err.Error()}
}

// roomOf returns the room of an event, which may be invalid. The create event of a version 12 room has no room ID, but
// is never sent in a transaction by itself.
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

// sortEDUs parses the EDUs of a transaction and separates those that refer to events from the others.
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

// receiveEDUs passes ephemeral data to the handlers of its types. If it returns an error, this server could not store
// some of it, such as messages between devices, and the other server has to send it again.
// Spec: server-server-api#edus
func (a *API) receiveEDUs(ctx context.Context, origin string, edus []ephemeral) (failed error) {
	for _, edu := range edus {
		take := a.EDUs[edu.Type]
		if take == nil {
			edusTotal.WithLabelValues("unknown").Inc()
			continue
		}
		if err := take(ctx, origin, edu.Content); err != nil {
			edusTotal.WithLabelValues("refused").Inc()
			a.Log.DebugContext(ctx, "Cannot process received ephemeral data", "type", edu.Type, "server", origin, "err", err)
			if storage.IsOutage(err) {
				failed = err
			}
			continue
		}
		edusTotal.WithLabelValues("accepted").Inc()
	}
	return failed
}

type transactionKey struct{ server, txn string }

// transactions caches the responses to transactions, and makes sure that the transactions of one server are processed
// one after the other.
type transactions struct {
	servers *keyed.Semaphore[string]
	answers *keyed.Map[string, []answered] // by server, oldest first; a stored list is never modified
}

type answered struct {
	txn    string
	answer transactionAnswer
}

// sizeOfAnswers estimates the memory that the cached responses of a server take.
func sizeOfAnswers(server string, list []answered) int64 {
	size := 128 + len(server)
	for _, a := range list {
		size += 128 + len(a.txn)
		for eventID, result := range a.answer.PDUs {
			size += 64 + len(eventID) + len(result.Error)
		}
	}
	return int64(size)
}

func newTransactions() *transactions {
	return &transactions{servers: keyed.NewSemaphore[string](1, maxUnderWay), answers: keyed.NewSizedMap(maxAnswerBytes, sizeOfAnswers)}
}

// once processes a transaction unless its response is cached. A repeated request waits until the first one is finished.
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
	transactionsTotal.WithLabelValues("accepted").Inc()
	return answer, nil
}
