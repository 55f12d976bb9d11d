//! The link to Redis: every operation has a deadline, a broken connection is made anew in the
//! background, and while there is none, operations fail at once with a text that says what to do.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value, aio::PubSub};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    connection::{Connection, Connector, RedisStartError},
    error::RedisError,
    keys::Keys,
    scripts::Call,
};
use crate::sync::lock;
use crate::{balancer::CallMetrics, config};

/// Commands that are under way at once for one caller.
const BATCH: usize = 256;
/// How often a healthy connection is tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after the first failed attempt to connect; doubled up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// How long nodes may take to bring back what an emptied Redis has lost, before fresh placements are
/// made in it. Longer than any pause.
const REBUILD: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum ConnectionState {
    /// The connection is new or has just broken; the next attempt is under way.
    Connecting,
    Up(Connection, u64),
    /// The last attempt failed.
    Away(RedisError),
}

/// What can be done with a connection, again if the connection breaks.
pub(super) trait Operation: Sync {
    type Output: Send;
    fn run(&self, connection: Connection) -> impl Future<Output = RedisResult<Self::Output>> + Send;
}

struct Run<'a>(&'a Cmd);
struct Batch<'a>(&'a [Cmd]);

impl Operation for Run<'_> {
    type Output = Value;

    async fn run(&self, mut connection: Connection) -> RedisResult<Value> {
        connection.run(self.0).await
    }
}

impl Operation for Batch<'_> {
    type Output = Vec<RedisResult<Value>>;

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.batch(self.0).await
    }
}

impl Operation for Call {
    type Output = Value;

    async fn run(&self, mut connection: Connection) -> RedisResult<Value> {
        match connection.run(&self.command(false)).await {
            Err(error) if is_forgotten(&error) => connection.run(&self.command(true)).await,
            result => result,
        }
    }
}

/// What operations go through.
pub(super) struct Link {
    connector: Connector,
    timeout: Duration,
    alive: String,
    state: watch::Sender<ConnectionState>,
    broken: Notify,
    /// Why writing fails although there is a connection.
    write_error: Mutex<Option<RedisError>>,
    /// What was found in [`Keys::alive`] last. Another value means that Redis has lost its data.
    data: Mutex<Option<Vec<u8>>>,
    /// Before this, no fresh placement is made.
    rebuilding_until: Mutex<Option<Instant>>,
    metrics: CallMetrics,
}

impl Link {
    pub fn new(config: &config::Redis, keys: &Keys) -> Result<Self, RedisStartError> {
        Ok(Self {
            connector: Connector::new(config)?,
            timeout: config.timeout,
            alive: keys.alive(),
            state: watch::channel(ConnectionState::Connecting).0,
            broken: Notify::new(),
            write_error: Mutex::default(),
            data: Mutex::default(),
            rebuilding_until: Mutex::default(),
            metrics: CallMetrics::default(),
        })
    }

    /// What came of all operations.
    pub fn metrics(&self) -> CallMetrics {
        self.metrics.clone()
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), ConnectionState::Up(..))
    }

    /// Whether operations can succeed now, writing included.
    pub fn check(&self) -> Result<(), RedisError> {
        match &*self.state.borrow() {
            ConnectionState::Up(..) => lock(&self.write_error).clone().map_or(Ok(()), Err),
            ConnectionState::Connecting => Err(RedisError::Connecting { server: self.connector.name().to_owned() }),
            ConnectionState::Away(error) => Err(error.clone()),
        }
    }

    /// How long fresh placements have to wait for what other nodes bring back.
    pub fn rebuilding_until(&self) -> Option<Instant> {
        lock(&self.rebuilding_until).filter(|at| Instant::now() < *at)
    }

    /// Runs one command.
    pub async fn run(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.operate(&Run(command)).await
    }

    /// Runs commands side by side; each has a result of its own. The deadline is that of a part of
    /// them, so that it does not depend on how many there are.
    pub async fn batch(&self, commands: &[Cmd]) -> Result<Vec<RedisResult<Value>>, RedisError> {
        let mut results = Vec::with_capacity(commands.len());
        for commands in commands.chunks(BATCH) {
            results.extend(self.operate(&Batch(commands)).await?);
        }
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            self.note(error);
        }
        Ok(results)
    }

    /// Runs a script.
    pub async fn call(&self, call: &Call) -> Result<Value, RedisError> {
        self.operate(call).await
    }

    /// Runs scripts side by side. Those that fail have no result; the reason is logged by the caller.
    pub async fn calls(&self, calls: &[Call]) -> Result<Vec<RedisResult<Value>>, RedisError> {
        let commands: Vec<_> = calls.iter().map(|call| call.command(false)).collect();
        let mut results = self.batch(&commands).await?;
        let forgotten: Vec<_> = (0..results.len()).filter(|i| results[*i].as_ref().is_err_and(is_forgotten)).collect();
        if !forgotten.is_empty() {
            let commands: Vec<_> = forgotten.iter().map(|i| calls[*i].command(true)).collect();
            for (i, result) in forgotten.into_iter().zip(self.batch(&commands).await?) {
                results[i] = result;
            }
        }
        Ok(results)
    }

    /// Runs an operation within the deadline. It may run again, on another connection.
    pub async fn operate<O: Operation>(&self, operation: &O) -> Result<O::Output, RedisError> {
        let used = AtomicU64::new(0);
        let work = async {
            loop {
                let (connection, number) = self.connection().await?;
                used.store(number, Ordering::Relaxed);
                match operation.run(connection).await {
                    Ok(done) => return Ok(done),
                    Err(error) if is_broken(&error) && !self.connector.heals_itself() => self.fail(number),
                    Err(error) => {
                        if is_broken(&error) {
                            self.broken.notify_one();
                        }
                        self.note(&error);
                        return Err(self.error(&error));
                    }
                }
            }
        };
        let start = Instant::now();
        let result = timeout_at(start + self.timeout, work).await;
        self.metrics.observe(&result, start.elapsed());
        result.unwrap_or_else(|_| {
            if self.connector.heals_itself() {
                self.broken.notify_one();
            } else {
                self.fail(used.load(Ordering::Relaxed));
            }
            Err(self.late())
        })
    }

    async fn connection(&self) -> Result<(Connection, u64), RedisError> {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| !matches!(state, ConnectionState::Connecting)).await.as_deref() {
            Ok(ConnectionState::Up(connection, number)) => Ok((connection.clone(), *number)),
            Ok(ConnectionState::Away(error)) => Err(error.clone()),
            _ => Err(self.late()),
        }
    }

    /// Gives up a connection, if it is still the one in use.
    fn fail(&self, number: u64) {
        let failed = self.state.send_if_modified(|state| {
            let current = matches!(state, ConnectionState::Up(_, now) if *now == number);
            if current {
                *state = ConnectionState::Connecting;
            }
            current
        });
        if failed {
            self.broken.notify_one();
        }
    }

    /// Keeps the connection up, for ever. `lost` runs when it breaks, `back` when it is there again.
    pub async fn keep_up(&self, lost: impl Fn(), back: impl Fn()) -> ! {
        let (mut number, mut pause) = (0, MIN_PAUSE);
        let mut logged = false;
        loop {
            match timeout(self.timeout, self.open()).await.unwrap_or_else(|_| Err(self.late())) {
                Ok(connection) => {
                    number += 1;
                    pause = MIN_PAUSE;
                    self.state.send_replace(ConnectionState::Up(connection.clone(), number));
                    tracing::info!(server = self.connector.name(), "connected to redis");
                    logged = false;
                    back();
                    self.watch(connection, number).await;
                    lost();
                }
                Err(error) => {
                    if !logged {
                        tracing::error!(error = %error, "redis unavailable; known streams go on, new ones are refused");
                        logged = true;
                    }
                    self.state.send_replace(ConnectionState::Away(error));
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Connects, and makes sure that it can be written.
    async fn open(&self) -> Result<Connection, RedisError> {
        let mut connection = self.connector.connect().await.map_err(|e| self.error(&e))?;
        if let Err(error) = self.probe(&mut connection).await
            && is_broken(&error)
        {
            return Err(self.error(&error));
        }
        let data = connection.run(redis::cmd("GET").arg(&self.alive)).await.map_err(|e| self.error(&e))?;
        if let Value::BulkString(data) = data {
            let before = lock(&self.data).replace(data.clone());
            if before.is_some_and(|before| before != data) {
                *lock(&self.rebuilding_until) = Some(Instant::now() + REBUILD);
                tracing::warn!(
                    server = self.connector.name(),
                    "redis has lost its data; nodes write back what they know"
                );
            }
        }
        Ok(connection)
    }

    /// Returns when the connection is broken. A part of a Cluster that is does not break the whole.
    async fn watch(&self, mut connection: Connection, number: u64) {
        loop {
            let _ = timeout(PROBE_INTERVAL, self.broken.notified()).await;
            if !self.is_up() {
                return;
            }
            let probe = timeout(self.timeout, self.probe(&mut connection)).await;
            if probe.is_err() || probe.is_ok_and(|result| result.is_err_and(|error| is_broken(&error))) {
                self.fail(number);
                return;
            }
        }
    }

    /// Writes, because a server that is full or a replica can still be read.
    async fn probe(&self, connection: &mut Connection) -> RedisResult<()> {
        let mut set = redis::cmd("SET");
        set.arg(&self.alive).arg(format!("{:016x}", rand::random::<u64>())).arg("NX");
        let result = connection.run(&set).await;
        match &result {
            Ok(_) => *lock(&self.write_error) = None,
            Err(error) => self.note(error),
        }
        result.map(|_| ())
    }

    /// Remembers, and logs once, why Redis refuses to write.
    fn note(&self, error: &redis::RedisError) {
        let error = self.error(error);
        if !error.refuses_writes() {
            return;
        }
        let mut write_error = lock(&self.write_error);
        if write_error.as_ref() != Some(&error) {
            tracing::error!(%error, "redis refuses writes");
            *write_error = Some(error);
        }
    }

    /// Opens a connection for subscriptions, within the deadline.
    pub async fn subscriber(&self, channel: &str) -> Result<PubSub, RedisError> {
        let connect = async {
            let mut subscriber = self.connector.subscriber().await?;
            subscriber.subscribe(channel).await?;
            Ok(subscriber)
        };
        let result = timeout(self.timeout, connect).await;
        result.unwrap_or_else(|_| Err(io_timeout())).map_err(|error: redis::RedisError| self.error(&error))
    }

    fn late(&self) -> RedisError {
        RedisError::Timeout { server: self.connector.name().to_owned(), limit: self.timeout }
    }

    pub fn error(&self, error: &redis::RedisError) -> RedisError {
        RedisError::new(self.connector.name(), self.timeout, error)
    }
}

fn io_timeout() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn is_forgotten(error: &redis::RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether the connection is of no use any more. That of a master that became a replica is not.
fn is_broken(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
            ) | ErrorKind::ClusterConnectionNotFound
        )
}
