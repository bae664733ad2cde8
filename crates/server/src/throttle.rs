//! How long somebody who guesses has to wait. Pure: the time is given.
//!
//! It is kept in memory alone: a restart, which no guesser can cause, begins anew.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An account after a few mistakes. It never waits long: whoever knows the name of an account could
/// otherwise keep its owner out. One guess a minute finds no password of the least length.
const ACCOUNT: Patience = Patience { free: 5, longest: Duration::from_secs(60) };

/// An address may try many accounts, and many people may share it.
const ADDRESS: Patience = Patience { free: 20, longest: Duration::from_secs(900) };

/// Who failed is forgotten after this long.
const FORGET: Duration = Duration::from_secs(3600);

/// How many accounts and addresses are remembered at the most, each some 100 bytes.
const REMEMBERED: usize = 20_000;

/// The first wait.
const FIRST: Duration = Duration::from_secs(4);

struct Patience {
    /// Failures that cost nothing.
    free: u32,
    /// The longest wait.
    longest: Duration,
}

impl Patience {
    /// How long to wait after so many failures: twice as long after each.
    fn wait(&self, failed: u32) -> Duration {
        match failed.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(more) => (FIRST * (1 << more.min(20))).min(self.longest),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    failed: u32,
    last: Instant,
}

/// Who failed how often.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    accounts: HashMap<String, Tries>,
    addresses: HashMap<IpAddr, Tries>,
}

impl Throttle {
    /// Whether somebody may try now. If so it counts as a failure until [`Self::succeeded`], so that trying
    /// at once many times gains nothing.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn attempt(&mut self, account: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = network(address);
        let left =
            left(&self.accounts, account, &ACCOUNT, now).max(left(&self.addresses, &address, &ADDRESS, now));
        if left > Duration::ZERO {
            return Err(left);
        }
        note(&mut self.accounts, account.to_owned(), now);
        note(&mut self.addresses, address, now);
        Ok(())
    }

    /// The last attempt was one: the wait begins now, not when it began.
    pub(crate) fn failed(&mut self, account: &str, address: IpAddr, now: Instant) {
        for tries in
            [self.accounts.get_mut(account), self.addresses.get_mut(&network(address))].into_iter().flatten()
        {
            tries.last = now;
        }
    }

    /// The last attempt was none of a guesser. Others from the same address are not forgiven: whoever has an
    /// account would otherwise have as many guesses at others as they like.
    pub(crate) fn succeeded(&mut self, account: &str, address: IpAddr) {
        self.accounts.remove(account);
        if let Some(tries) = self.addresses.get_mut(&network(address)) {
            tries.failed = tries.failed.saturating_sub(1);
        }
    }

    /// True if the account begins to wait with the failure that was noted last.
    pub(crate) fn just_began(&self, account: &str) -> bool {
        self.accounts.get(account).is_some_and(|tries| tries.failed == ACCOUNT.free)
    }
}

fn left<K: Hash + Eq + ?Sized, Q>(
    known: &HashMap<Q, Tries>,
    key: &K,
    patience: &Patience,
    now: Instant,
) -> Duration
where
    Q: std::borrow::Borrow<K> + Hash + Eq,
{
    known.get(key).map_or(Duration::ZERO, |tries| {
        patience.wait(tries.failed).saturating_sub(now.saturating_duration_since(tries.last))
    })
}

fn note<K: Hash + Eq + Clone>(known: &mut HashMap<K, Tries>, key: K, now: Instant) {
    if known.len() >= REMEMBERED && !known.contains_key(&key) {
        known.retain(|_, tries| now.saturating_duration_since(tries.last) < FORGET);
        if known.len() >= REMEMBERED
            && let Some(oldest) = known.iter().min_by_key(|(_, tries)| tries.last).map(|(key, _)| key.clone())
        {
            known.remove(&oldest);
        }
    }
    let tries = known.entry(key).or_insert(Tries { failed: 0, last: now });
    if now.saturating_duration_since(tries.last) >= FORGET {
        tries.failed = 0;
    }
    *tries = Tries { failed: tries.failed.saturating_add(1), last: now };
}

/// What belongs to one customer: an IPv4 address, 2^64 addresses of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_failure_makes_the_wait_longer_up_to_a_limit() {
        let check = |patience: &Patience, failed, seconds| {
            assert_eq!(patience.wait(failed).as_secs(), seconds, "after {failed}");
        };
        for (failed, seconds) in [(0, 0), (4, 0), (5, 4), (6, 8), (8, 32), (9, 60), (u32::MAX, 60)] {
            check(&ACCOUNT, failed, seconds);
        }
        for (failed, seconds) in [(19, 0), (20, 4), (27, 512), (28, 900)] {
            check(&ADDRESS, failed, seconds);
        }
    }

    #[test]
    fn an_account_waits_from_everywhere_and_an_address_for_all_accounts() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for host in 1..=5 {
            assert!(!throttle.just_began("alice"));
            throttle.attempt("alice", address(&format!("192.0.2.{host}")), now).unwrap();
        }
        assert!(throttle.just_began("alice"));
        let far = address("198.51.100.1");
        assert_eq!(throttle.attempt("alice", far, now).unwrap_err(), FIRST);
        throttle.failed("alice", far, now);
        // Asking while it waits costs nothing.
        assert_eq!(throttle.attempt("alice", far, now).unwrap_err(), FIRST);
        throttle.attempt("alice", far, now + FIRST).unwrap();
        throttle.succeeded("alice", far);
        throttle.attempt("alice", far, now + FIRST).unwrap();

        for number in 0..20 {
            let neighbour = address(&format!("2001:db8::{number:x}"));
            throttle.attempt(&format!("user-{number}"), neighbour, now).unwrap();
        }
        assert!(throttle.attempt("bob", address("2001:db8::ffff"), now).is_err());
        assert!(throttle.attempt("bob", address("2001:db8:0:1::1"), now).is_ok());
        // Whoever has an account cannot buy guesses with it.
        throttle.succeeded("user-1", address("2001:db8::1"));
        throttle.attempt("bob-2", address("2001:db8::1"), now).unwrap();
        assert!(throttle.attempt("bob-3", address("2001:db8::1"), now).is_err());
        assert!(throttle.attempt("bob-3", address("2001:db8::1"), now + FORGET).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for number in 0..REMEMBERED + 10 {
            let host = address(&format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255));
            throttle.attempt(&number.to_string(), host, now).unwrap();
        }
        assert_eq!((throttle.accounts.len(), throttle.addresses.len()), (REMEMBERED, REMEMBERED));
    }
}
