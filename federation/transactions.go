package federation

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/telemetry"
)

// Bounds of a transaction.
// Spec: server-server-api#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxTransaction: 50 events of 64 KiB whose every byte is escaped, and 100 EDUs of the same size.
	maxTransaction = 32 << 20
	// maxAnswers is how many answers are remembered, so that a transaction that comes again is not worked through again.
	maxAnswers = 10_000
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
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Origin != "" && body.Origin != r.Server:
		return nil, mxerr.Forbidden("The transaction is of another server")
	case len(body.PDUs) > maxPDUs || len(body.EDUs) > maxEDUs:
		transactionsTotal.WithLabelValues("refused").Inc()
		return nil, mxerr.InvalidParam("A transaction has at most %d PDUs and %d EDUs", maxPDUs, maxEDUs)
	}
	ctx := context.WithoutCancel(r.Context())
	return a.transactions.once(r.Context(), transactionKey{r.Server, r.Var("txnId")}, func() transactionAnswer {
		ctx, cancel := context.WithTimeout(ctx, transactionTime)
		defer cancel()
		receipts, others := a.sortEDUs(body.EDUs)
		a.takeEDUs(ctx, r.Server, others) // messages between devices do not wait for events
		answer := a.takePDUs(ctx, r.Server, body.PDUs)
		a.takeEDUs(ctx, r.Server, receipts) // of events that may have come with them
		return answer
	})
}

// takePDUs gives the events to their rooms, which work at the same time.
func (a *API) takePDUs(ctx context.Context, origin string, pdus []json.RawMessage) transactionAnswer {
	byRoom := map[id.RoomID][]json.RawMessage{}
	for _, raw := range pdus {
		if room := a.roomOf(raw); room != "" {
			byRoom[room] = append(byRoom[room], raw)
		}
	}
	answer := transactionAnswer{PDUs: map[id.EventID]pduResult{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for room, raws := range byRoom {
		all.Go(func() {
			results, err := a.Rooms.Receive(ctx, origin, room, raws)
			if err != nil {
				a.Log.DebugContext(ctx, "events were not taken in", "room", room, "server", origin, "events", len(raws), "err", err)
				results = a.Rooms.Refused(ctx, room, raws, results, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for eventID, err := range results {
				answer.PDUs[eventID] = resultOf(err)
			}
		})
	}
	all.Wait()
	return answer
}

// resultOf is what the sender is told of one event: never more than the kind of fault.
func resultOf(err error) pduResult {
	var known *mxerr.Error
	switch {
	case err == nil:
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
		switch err := json.Unmarshal(raw, &edu); {
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

// transactions remembers what was answered, and lets the transactions of one server be worked on one after the other.
type transactions struct {
	// mu guards what follows; a leaf.
	mu      sync.Mutex
	answers map[transactionKey]transactionAnswer
	order   []transactionKey // of answers, the oldest first
	servers map[string]*sending
}

// sending is what one server sends at the moment.
type sending struct {
	slot  chan struct{} // held by the transaction that is worked on
	count int           // of those that are worked on or wait
}

func newTransactions() *transactions {
	return &transactions{answers: map[transactionKey]transactionAnswer{}, servers: map[string]*sending{}}
}

// once works on a transaction unless it was answered before. One that comes again meanwhile waits for the first.
func (t *transactions) once(ctx context.Context, key transactionKey, work func() transactionAnswer) (any, error) {
	s, err := t.enter(key.server)
	if err != nil {
		return nil, err
	}
	defer t.leave(key.server, s)
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if answer, known := t.answer(key); known {
		transactionsTotal.WithLabelValues("repeated").Inc()
		return answer, nil
	}
	answer := work()
	t.remember(key, answer)
	transactionsTotal.WithLabelValues("taken").Inc()
	return answer, nil
}

func (t *transactions) enter(server string) (*sending, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.servers[server]
	if s == nil {
		s = &sending{slot: make(chan struct{}, 1)}
		t.servers[server] = s
	}
	if s.count >= maxUnderWay {
		transactionsTotal.WithLabelValues("refused").Inc()
		return nil, mxerr.LimitExceeded(time.Second)
	}
	s.count++
	return s, nil
}

func (t *transactions) leave(server string, s *sending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.count--; s.count == 0 {
		delete(t.servers, server)
	}
}

func (t *transactions) answer(key transactionKey) (transactionAnswer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answer, known := t.answers[key]
	return answer, known
}

func (t *transactions) remember(key transactionKey, answer transactionAnswer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[key] = answer
	if t.order = append(t.order, key); len(t.order) > maxAnswers {
		delete(t.answers, t.order[0])
		t.order = slices.Delete(t.order, 0, 1)
	}
}
