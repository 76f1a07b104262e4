import com.github.kagkarlsson.scheduler.Scheduler;
import com.github.kagkarlsson.scheduler.SchedulerClient;
import com.github.kagkarlsson.scheduler.task.SchedulableInstance;
import com.github.kagkarlsson.scheduler.task.helper.OneTimeTask;
import com.github.kagkarlsson.scheduler.task.helper.Tasks;
import com.zaxxer.hikari.HikariDataSource;
import java.net.URI;
import java.sql.SQLException;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;

/** db-scheduler: batches that are locked as they are fetched from PostgreSQL, and run by twenty threads. */
final class DbSchedulerPeer {
  /** Jobs that are scheduled in one call. */
  private static final int BATCH = 1_000;

  private static final int THREADS = 20;

  /** Whoever uses it makes its table; one index is left out, that of priorities, since none are used. */
  private static final String[] TABLE = {
    """
    CREATE TABLE scheduled_tasks (
      task_name text NOT NULL, task_instance text NOT NULL, task_data bytea,
      execution_time timestamptz, picked boolean NOT NULL, picked_by text,
      last_success timestamptz, last_failure timestamptz, consecutive_failures int,
      last_heartbeat timestamptz, version bigint NOT NULL, priority smallint, state text,
      PRIMARY KEY (task_name, task_instance))
    """,
    "CREATE INDEX ON scheduled_tasks (execution_time)",
    "CREATE INDEX ON scheduled_tasks (last_heartbeat)",
  };

  /** Milliseconds from the due time of each job to its handler. */
  private final double[] late;

  private final AtomicInteger ran = new AtomicInteger();
  private final CountDownLatch all;

  private DbSchedulerPeer(int number) {
    late = new double[number];
    all = new CountDownLatch(number);
  }

  public static void main(String[] arguments) throws Exception {
    int number = Integer.parseInt(option(arguments, "--number"));
    Duration dueIn = seconds(option(arguments, "--due-in"));
    Duration spread = seconds(option(arguments, "--spread"));
    Duration ahead = seconds(option(arguments, "--ahead"));
    Instant first = Instant.now().plus(dueIn).plusMillis(500).truncatedTo(ChronoUnit.SECONDS);
    try (HikariDataSource database = opened(URI.create(option(arguments, "--place")))) {
      new DbSchedulerPeer(number).measure(database, number, first, spread, ahead);
    }
  }

  private void measure(
      HikariDataSource database, int number, Instant first, Duration spread, Duration ahead) throws Exception {
    OneTimeTask<Void> tick =
        Tasks.oneTime("tick").execute((job, context) -> began(context.getExecution().executionTime));
    schedule(SchedulerClient.Builder.create(database, tick).build(), tick, number, first, spread);
    // As autovacuum does with a table that has been there for a while.
    execute(database, "VACUUM ANALYZE scheduled_tasks");
    Duration left = Duration.between(Instant.now(), first.minus(ahead));
    if (left.isNegative()) {
      throw new IllegalStateException("scheduling took too long by " + left.negated() + ": give more --due-in");
    }
    Thread.sleep(left.toMillis());

    // The worker is up, and looks for work from now on: CPU counts.
    System.out.println("begins");
    Scheduler scheduler =
        Scheduler.create(database, tick)
            .threads(THREADS)
            .pollUsingLockAndFetch(4.0, 20.0)
            .pollingInterval(Duration.ofMillis(10))
            .build();
    scheduler.start();
    all.await();
    scheduler.stop();
    // All has run and is written: whoever measures reads the CPU of this process now, and then lets it go on.
    System.out.println("ended");
    System.in.read();
    System.out.println(Arrays.toString(late));
  }

  private void began(Instant due) {
    late[ran.getAndIncrement()] = ChronoUnit.MICROS.between(due, Instant.now()) / 1_000.0;
    all.countDown();
  }

  private static void schedule(
      SchedulerClient client, OneTimeTask<Void> tick, int number, Instant first, Duration spread) {
    for (int start = 0; start < number; start += BATCH) {
      List<SchedulableInstance<?>> jobs = new ArrayList<>(BATCH);
      for (int index = start; index < Math.min(start + BATCH, number); index++) {
        Instant due = first.plus(spread.multipliedBy(index).dividedBy(number)).truncatedTo(ChronoUnit.MICROS);
        jobs.add(SchedulableInstance.of(tick.instance(Integer.toString(index)), due));
      }
      client.scheduleBatch(jobs);
    }
  }

  private static HikariDataSource opened(URI place) throws SQLException {
    String[] user = place.getUserInfo() == null ? new String[0] : place.getUserInfo().split(":", 2);
    HikariDataSource database = new HikariDataSource();
    database.setJdbcUrl(
        "jdbc:postgresql://" + place.getHost() + ":" + place.getPort() + place.getPath() + "?reWriteBatchedInserts=true");
    if (user.length > 0) database.setUsername(user[0]);
    if (user.length > 1) database.setPassword(user[1]);
    // One for each thread, and some for polling and heartbeats.
    database.setMaximumPoolSize(THREADS + 4);
    for (String part : TABLE) execute(database, part);
    return database;
  }

  private static void execute(HikariDataSource database, String sql) throws SQLException {
    try (var connection = database.getConnection();
        var statement = connection.createStatement()) {
      statement.execute(sql);
    }
  }

  private static Duration seconds(String text) {
    return Duration.ofNanos(Math.round(Double.parseDouble(text) * 1e9));
  }

  private static String option(String[] arguments, String name) {
    return arguments[List.of(arguments).indexOf(name) + 1];
  }
}
