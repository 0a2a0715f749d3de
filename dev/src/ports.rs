//! Which port is whose: blocks of ten, so that stacks on one machine do not collide.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// The first block; every further stack on the machine takes the next free one.
const FIRST_BASE: u16 = 7700;
/// Ports in a block.
const BLOCK: u16 = 10;
/// Blocks that are tried before giving up.
const BLOCKS_MAX: u16 = 100;

/// What listens on a port of the block; the value is its place in the block.
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

    /// What messages call it.
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

    /// Its port in the block that begins at `base`.
    pub fn port(self, base: u16) -> u16 {
        base + self as u16
    }
}

/// A block of ports, each held by us until its owner is about to start.
#[derive(Debug)]
pub struct Block {
    base: u16,
    held: Vec<(Role, TcpListener)>,
}

impl Block {
    /// The first block of which all ports are free.
    pub fn first_free() -> Result<Self> {
        let bases = (0..BLOCKS_MAX).map(|n| FIRST_BASE + n * BLOCK);
        for base in bases {
            if let Ok(block) = Self::hold(base) {
                return Ok(block);
            }
        }
        let last = FIRST_BASE + (BLOCKS_MAX - 1) * BLOCK;
        bail!("no free block of ports from {FIRST_BASE} to {last}; choose one with `cargo dev --ports N`")
    }

    /// The block that begins at `base`; an error that names the port which is taken.
    pub fn hold(base: u16) -> Result<Self> {
        if !(1024..=u16::MAX - BLOCK).contains(&base) {
            bail!("a block of ports begins between 1024 and {}, not at {base}", u16::MAX - BLOCK);
        }
        let mut held = Vec::new();
        for role in Role::ALL {
            let port = role.port(base);
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
                bail!(
                    "port {port} ({}) is taken; stop what listens there or choose another block with \
                     `cargo dev --ports N`",
                    role.name()
                );
            };
            held.push((role, listener));
        }
        Ok(Self { base, held })
    }

    /// Where the block begins.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Lets go of a port, for its owner to start now.
    pub fn release(&mut self, role: Role) -> u16 {
        self.held.retain(|(held, _)| *held != role);
        role.port(self.base)
    }
}

/// A free port of the system's choice, for tests.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// An address on this machine alone.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_keep_their_places() {
        let ports: Vec<u16> = Role::ALL.iter().map(|role| role.port(7700)).collect();
        assert_eq!(ports, [7700, 7701, 7702, 7703, 7704, 7705, 7706, 7707, 7708]);
    }

    #[test]
    fn two_stacks_take_two_blocks_and_a_taken_port_is_named() {
        let mut one = Block::first_free().unwrap();
        let two = Block::first_free().unwrap();
        assert_ne!(one.base(), two.base());

        let port = one.release(Role::Postgres);
        let _other = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let base = one.base();
        drop(one);
        let err = Block::hold(base).unwrap_err().to_string();
        assert!(err.contains(&format!("port {port} (Postgres) is taken")), "{err}");
        assert!(err.contains("--ports"), "{err}");
    }

    #[test]
    fn a_block_must_fit() {
        assert!(Block::hold(80).is_err());
        assert!(Block::hold(65_530).is_err());
    }
}
