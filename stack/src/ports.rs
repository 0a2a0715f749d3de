//! Allocates ports: blocks of ten, so that stacks on one machine do not collide, and single ports for tests, many of
//! which run in parallel.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// The first block; each further stack on the machine takes the next free one.
const FIRST_BASE: u16 = 7700;
/// Ports in a block.
const BLOCK: u16 = 10;
/// Blocks that are tried before an error is returned.
const BLOCKS_MAX: u16 = 100;

/// The user of a port of the block; the value is its offset in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Role {
    /// Waybill's HTTP API.
    Api = 0,
    /// Temporal's web UI.
    TemporalUi = 1,
    /// Temporal's gRPC front end.
    Temporal = 2,
    /// Postgres.
    Postgres = 3,
    /// The payment provider's simulator.
    Payments = 4,
    /// The carrier's simulator.
    Carrier = 5,
    /// The worker's health and metrics.
    Worker = 6,
    /// Temporal's HTTP API.
    TemporalHttp = 7,
    /// Temporal's metrics.
    TemporalMetrics = 8,
}

impl Role {
    const ALL: [Self; 9] = [
        Self::Api,
        Self::TemporalUi,
        Self::Temporal,
        Self::Postgres,
        Self::Payments,
        Self::Carrier,
        Self::Worker,
        Self::TemporalHttp,
        Self::TemporalMetrics,
    ];

    /// Returns the name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "the API",
            Self::TemporalUi => "Temporal's web UI",
            Self::Temporal => "Temporal",
            Self::Postgres => "Postgres",
            Self::Payments => "the payment simulator",
            Self::Carrier => "the carrier simulator",
            Self::Worker => "the worker's metrics",
            Self::TemporalHttp => "Temporal's HTTP API",
            Self::TemporalMetrics => "Temporal's metrics",
        }
    }

    /// Returns its port in the block that begins at `base`.
    pub fn port(self, base: u16) -> u16 {
        base + self as u16
    }
}

/// A block of ports. Each port stays bound until its process is about to start.
#[derive(Debug)]
pub struct PortBlock {
    base: u16,
    held: Vec<(Role, TcpListener)>,
}

impl PortBlock {
    /// Returns the first block whose ports are all free.
    pub fn first_free() -> Result<Self> {
        let bases = (0..BLOCKS_MAX).map(|n| FIRST_BASE + n * BLOCK);
        for base in bases {
            if let Ok(block) = Self::reserve(base) {
                return Ok(block);
            }
        }
        let last = FIRST_BASE + (BLOCKS_MAX - 1) * BLOCK;
        bail!("no free block of ports from {FIRST_BASE} to {last}; choose one with `cargo dev --ports N`")
    }

    /// Binds the block that begins at `base`; the error names a port that is in use.
    pub fn reserve(base: u16) -> Result<Self> {
        if !(1024..=u16::MAX - BLOCK).contains(&base) {
            bail!("a block of ports begins between 1024 and {}, not at {base}", u16::MAX - BLOCK);
        }
        let mut held = Vec::new();
        for role in Role::ALL {
            let port = role.port(base);
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
                bail!(
                    "port {port} ({}) is taken; stop the process that listens there or choose another block with \
                     `cargo dev --ports N`",
                    role.name()
                );
            };
            held.push((role, listener));
        }
        Ok(Self { base, held })
    }

    /// The first port of the block.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Releases a port, so that its process can start.
    pub fn release(&mut self, role: Role) -> u16 {
        self.held.retain(|(held, _)| *held != role);
        role.port(self.base)
    }
}

/// The first port for tests.
const TESTS_FIRST: u16 = 10_000;
/// Number of ports that a process claims at a time.
const PORTS_PER_CLAIM: u16 = 100;
/// The first of Linux's ephemeral ports by default.
const SYSTEM_FIRST: u16 = 32_768;

/// The ports claimed by this process. Its lifetime binding of the first port of each claim keeps other processes off
/// the claim's other ports, even while no process listens on them.
struct Claims {
    held: Vec<TcpListener>,
    next: u16,
    end: u16,
}

static CLAIMS: Mutex<Claims> = Mutex::new(Claims { held: Vec::new(), next: 0, end: 0 });

/// Returns a port for a test, each only once. It is not one of the system's ephemeral ports, because the system could
/// assign those to another process before the test's server starts.
pub fn free_port() -> Result<u16> {
    // The claims are consistent even if another thread panicked while it held the lock.
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if claims.next == claims.end {
            claims.extend()?;
        }
        let port = claims.next;
        claims.next += 1;
        // A process that does not use claims may listen there, or one of an earlier run that is still ending.
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

impl Claims {
    fn extend(&mut self) -> Result<()> {
        let end = system_first();
        for first in (TESTS_FIRST..end.saturating_sub(PORTS_PER_CLAIM)).step_by(PORTS_PER_CLAIM.into()) {
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                self.held.push(listener);
                (self.next, self.end) = (first + 1, first + PORTS_PER_CLAIM);
                return Ok(());
            }
        }
        bail!(
            "no {PORTS_PER_CLAIM} ports are free between {TESTS_FIRST} and {end}, where the ephemeral ports begin"
        )
    }
}

/// Returns the first port that the system assigns automatically, outgoing connections included.
fn system_first() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(SYSTEM_FIRST)
}

/// An address on loopback.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn role_ports_are_stable() {
        let ports: Vec<u16> = Role::ALL.iter().map(|role| role.port(7700)).collect();
        assert_eq!(ports, [7700, 7701, 7702, 7703, 7704, 7705, 7706, 7707, 7708]);
    }

    #[test]
    fn two_stacks_get_distinct_blocks() {
        let mut one = PortBlock::first_free().unwrap();
        let two = PortBlock::first_free().unwrap();
        assert_ne!(one.base(), two.base());

        let port = one.release(Role::Postgres);
        let _other =
            retry_briefly(|| TcpListener::bind(("127.0.0.1", port)).map_err(|error| error.to_string()));
        let base = one.base();
        drop(one);
        let err = retry_briefly(|| {
            let err = PortBlock::reserve(base).unwrap_err().to_string();
            if err.contains(&format!("port {port} (Postgres) is taken")) { Ok(err) } else { Err(err) }
        });
        assert!(err.contains("--ports"), "{err}");
    }

    /// Retries for up to 10 seconds. A child process that another test starts holds our sockets until its `exec`, so a
    /// released port may stay in use for a moment.
    fn retry_briefly<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match attempt() {
                Ok(done) => return done,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Prints the ports that it got, and listens on them until stdin is closed: a child process of the test below.
    #[test]
    fn claims_ports_in_child_process() {
        if std::env::var_os(TAKES_PORTS).is_none() {
            return;
        }
        let ports: Vec<u16> = (0..TAKEN).map(|_| free_port().unwrap()).collect();
        let _held: Vec<_> =
            ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).unwrap()).collect();
        let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
        writeln!(std::io::stdout(), "ports: {}", numbers.join(" ")).unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }

    const TAKES_PORTS: &str = "WAYBILL_TEST_TAKES_PORTS";
    /// More than one claim contains.
    const TAKEN: usize = 130;

    #[test]
    fn concurrent_processes_get_distinct_ports() {
        let start = |_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "ports::tests::claims_ports_in_child_process", "--nocapture"])
                .env(TAKES_PORTS, "1");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut children: Vec<_> = (0..6).map(start).collect();
        let mut all: Vec<u16> = Vec::new();
        for child in &mut children {
            let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
            let line = lines.find_map(|line| line.split_once("ports: ").map(|(_, ports)| ports.to_owned()));
            all.extend(
                line.expect("the child printed its ports")
                    .split(' ')
                    .map(|port| port.parse::<u16>().unwrap()),
            );
        }
        all.extend((0..TAKEN).map(|_| free_port().unwrap()));
        for child in &mut children {
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
        }
        assert!(all.iter().all(|port| *port < system_first()), "no ephemeral port is among them");
        let different: BTreeSet<u16> = all.iter().copied().collect();
        assert_eq!((all.len(), different.len()), (7 * TAKEN, 7 * TAKEN));
    }

    #[test]
    fn block_beyond_port_range_is_rejected() {
        assert!(PortBlock::reserve(80).is_err());
        assert!(PortBlock::reserve(65_530).is_err());
    }
}
