// River: jobs that are scheduled in bulk, and fetched and completed in batches, with the settings of `river bench`.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Jobs that are scheduled in one call.
const batch = 5_000

type tick struct {
	// Microseconds since the epoch.
	Due int64 `json:"due"`
}

func (tick) Kind() string { return "tick" }

// account gathers how many milliseconds after its due time each handler began.
type account struct {
	river.WorkerDefaults[tick]
	number int
	all    chan struct{}
	mutex  sync.Mutex
	late   []float64
}

func (a *account) Work(_ context.Context, job *river.Job[tick]) error {
	late := float64(time.Now().UnixMicro()-job.Args.Due) / 1000
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.late = append(a.late, late)
	if len(a.late) == a.number {
		close(a.all)
	}
	return nil
}

func main() {
	place := flag.String("place", "", "the URL of the database")
	number := flag.Int("number", 0, "jobs to schedule")
	dueIn := flag.Float64("due-in", 0, "seconds until the first is due")
	spread := flag.Float64("spread", 0, "seconds over which the others are due, evenly")
	ahead := flag.Float64("ahead", 0, "seconds before the first is due that the worker is started")
	flag.Parse()
	if err := measure(*place, *number, *dueIn, *spread, *ahead); err != nil {
		log.Fatal(err)
	}
}

func measure(place string, number int, dueIn, spread, ahead float64) error {
	ctx := context.Background()
	first := time.Now().Add(time.Duration(dueIn * float64(time.Second))).Round(time.Second)
	pool, err := pgxpool.New(ctx, place)
	if err != nil {
		return err
	}
	defer pool.Close()
	ran := &account{number: number, all: make(chan struct{})}
	client, err := opened(ctx, pool, ran)
	if err != nil {
		return err
	}
	if err := schedule(ctx, client, number, first, spread); err != nil {
		return err
	}
	// As autovacuum does with a table that has been there for a while.
	if _, err := pool.Exec(ctx, "VACUUM ANALYZE river_job"); err != nil {
		return err
	}
	left := time.Until(first) - time.Duration(ahead*float64(time.Second))
	if left < 0 {
		return fmt.Errorf("scheduling took %s longer than expected: give more -due-in", -left)
	}
	time.Sleep(left)

	// The worker is up, and looks for work from now on: CPU counts.
	fmt.Println("begins")
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-ran.all
	if err := client.Stop(ctx); err != nil {
		return err
	}
	// All has run and is written: whoever measures reads the CPU of this process now, and then lets it go on.
	fmt.Println("ended")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(ran.late)
}

func opened(ctx context.Context, pool *pgxpool.Pool, ran *account) (*river.Client[pgx.Tx], error) {
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, ran)
	return river.NewClient(driver, &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2_000}},
		Workers:           workers,
	})
}

func schedule(ctx context.Context, client *river.Client[pgx.Tx], number int, first time.Time, spread float64) error {
	step := spread * float64(time.Second) / float64(number)
	for start := 0; start < number; start += batch {
		jobs := make([]river.InsertManyParams, 0, batch)
		for index := start; index < min(start+batch, number); index++ {
			due := first.Add(time.Duration(math.Round(step * float64(index)))).Truncate(time.Microsecond)
			jobs = append(jobs, river.InsertManyParams{
				Args:       tick{Due: due.UnixMicro()},
				InsertOpts: &river.InsertOpts{ScheduledAt: due},
			})
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	return nil
}
