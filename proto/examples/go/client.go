// A client in Go: sends records with a window in flight, again where that is safe, reads them back, and follows the stream.
//
//	go run . localhost:50051 flights records.jsonl
//
// CI does not build or run this file. Stubs come from the .proto files, the rest from `go mod tidy`:
//
//	go mod init example
//	protoc -I ../../proto --go_out=. --go-grpc_out=. \
//	  --go_opt=Mttdust/ingestion/v1/ingestion.proto=example/ingestion \
//	  --go_opt=Mttdust/query/v1/query.proto=example/query \
//	  --go-grpc_opt=Mttdust/ingestion/v1/ingestion.proto=example/ingestion \
//	  --go-grpc_opt=Mttdust/query/v1/query.proto=example/query \
//	  --go_opt=module=example --go-grpc_opt=module=example \
//	  ttdust/ingestion/v1/ingestion.proto ttdust/query/v1/query.proto
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example/ingestion"
	"example/query"
)

const (
	// Records in flight.
	window = 256
	// Calls without progress after which somebody should look.
	tries = 10
)

type record struct {
	key     string
	payload []byte
}

// waitAfter says when a call that ended so may be made again, if ever.
func waitAfter(err error) (time.Duration, bool) {
	ended := status.Convert(err)
	reason, wait, may := "", time.Duration(0), false
	for _, detail := range ended.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			wait, may = detail.GetRetryDelay().AsDuration(), true
		}
	}
	// Without a reason the connection broke. Either way nobody knows; the keys make it safe to send the same again.
	unknown := reason == "" || reason == "OUTCOME_UNKNOWN" || reason == "SHARD_STOPPED"
	if ended.Code() == codes.Unavailable && unknown {
		return time.Second, true
	}
	return wait, may
}

var toldWait = regexp.MustCompile(`retry after (\d+) ms$`)

// call sends of waiting what one call takes. It returns what is still to be sent, and when.
func call(client ingestion.IngestionServiceClient, stream string, waiting []record, outcomes map[string]int) ([]record, time.Duration, error) {
	ctx, cancel := context.WithCancel(withKey(context.Background()))
	defer cancel()
	exchange, err := client.IngestStream(ctx)
	var again []record
	var wait time.Duration
	sent, answered := 0, 0
	closed := false
	for err == nil {
		for wait == 0 && sent < len(waiting) && sent-answered < window {
			next := waiting[sent]
			// An error of Send is told by Recv.
			_ = exchange.Send(&ingestion.IngestRequest{StreamId: stream, Payload: next.payload, IdempotencyKey: &next.key})
			sent++
		}
		if !closed && (wait > 0 || sent == len(waiting)) {
			_ = exchange.CloseSend()
			closed = true
		}
		var answer *ingestion.IngestResponse
		// One answer a request, in order.
		answer, err = exchange.Recv()
		if err != nil {
			break
		}
		if answer.GetStatus() == ingestion.Status_STATUS_RATE_LIMITED {
			again = append(again, waiting[answered])
			told := time.Second
			if found := toldWait.FindStringSubmatch(answer.GetError().GetMessage()); found != nil {
				if millis, wrong := strconv.Atoi(found[1]); wrong == nil {
					told = time.Duration(millis) * time.Millisecond
				}
			}
			wait = max(wait, told)
		} else {
			outcomes[answer.GetStatus().String()]++
		}
		answered++
	}
	left := append(again, waiting[answered:]...)
	if err == io.EOF {
		return left, wait, nil
	}
	after, may := waitAfter(err)
	if !may {
		return left, 0, err
	}
	return left, max(wait, after), nil
}

func send(client ingestion.IngestionServiceClient, stream string, waiting []record) (map[string]int, error) {
	outcomes := map[string]int{}
	for failures := 0; len(waiting) > 0; {
		left, wait, err := call(client, stream, waiting, outcomes)
		if err != nil {
			return outcomes, err
		}
		if len(left) == len(waiting) {
			failures++
		} else {
			failures = 0
		}
		if failures == tries {
			return outcomes, fmt.Errorf("no progress in %d tries", tries)
		}
		waiting = left
		if len(waiting) > 0 {
			time.Sleep(wait)
		}
	}
	return outcomes, nil
}

// follow reads count records from first on. A tail that was cut off goes on after the last that came.
func follow(client query.QueryServiceClient, stream string, first int64, count int) ([]int64, error) {
	var seen []int64
	for len(seen) < count {
		start := first
		if len(seen) > 0 {
			start = seen[len(seen)-1] + 1
		}
		ctx, cancel := context.WithCancel(withKey(context.Background()))
		tail, err := client.StreamingRead(ctx, &query.StreamingReadRequest{StreamId: stream, StartSequence: &start})
		for err == nil && len(seen) < count {
			var answer *query.StreamingReadResponse
			if answer, err = tail.Recv(); err == nil {
				seen = append(seen, answer.GetRecord().GetSequenceNumber())
			}
		}
		cancel()
		if err != nil && err != io.EOF {
			wait, may := waitAfter(err)
			if !may {
				return seen, err
			}
			time.Sleep(wait)
		}
	}
	return seen, nil
}

func withKey(ctx context.Context) context.Context {
	if key := os.Getenv("TTDUST_API_KEY"); key != "" {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	return ctx
}

func records(path string) ([]record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []record
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var parsed struct {
			EventID string `json:"event_id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &parsed); err != nil {
			return nil, err
		}
		found = append(found, record{parsed.EventID, bytes.Clone(lines.Bytes())})
	}
	return found, lines.Err()
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("want ADDRESS STREAM RECORDS.jsonl")
	}
	waiting, err := records(os.Args[3])
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream := os.Args[2]
	outcomes, err := send(ingestion.NewIngestionServiceClient(connection), stream, waiting)
	if err != nil {
		return err
	}
	fmt.Println(outcomes)
	queries := query.NewQueryServiceClient(connection)
	limit := int32(10)
	page, err := queries.QueryTimeRange(withKey(context.Background()), &query.TimeRangeQueryRequest{
		StreamId: stream, StartTimeUnixMicros: 0, EndTimeUnixMicros: math.MaxInt64, Limit: &limit})
	if err != nil {
		return err
	}
	if len(page.GetRecords()) == 0 {
		return fmt.Errorf("the stream is empty")
	}
	followed, err := follow(queries, stream, page.GetRecords()[0].GetSequenceNumber(), len(page.GetRecords()))
	if err != nil {
		return err
	}
	fmt.Println(len(page.GetRecords()), followed)
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
