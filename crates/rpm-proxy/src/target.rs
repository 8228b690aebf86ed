//! Upstreams as the caller describes them.

use crate::address::Address;

/// Identifies an upstream. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub u32);

/// An upstream as the caller describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub id: UpstreamId,
    /// Where it is reached.
    pub addr: Address,
    /// The weight, for [`crate::UpstreamPolicy::Weighted`]; at least 1.
    pub weight: u32,
    /// The number that cookies hold. Its successor has the same.
    pub key: u32,
    /// Only clients whose cookie names it are sent there.
    pub reserved: bool,
}

impl Target {
    /// The same upstream, reserved or not.
    pub(crate) fn is_same(&self, other: &Target) -> bool {
        (self.id, self.addr, self.weight, self.key) == (other.id, other.addr, other.weight, other.key)
    }
}
