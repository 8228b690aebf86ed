//! From the types of one side of the border to those of the other, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rpm_core::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Tick, WorkerId};

use crate::v4::Nanos;

/// The same in other types.
pub(crate) trait Convert<T> {
    fn convert(self) -> T;
}

macro_rules! same {
    ($($kind:ty),*) => {
        $(impl Convert<$kind> for $kind {
            fn convert(self) -> $kind {
                self
            }
        })*
    };
}

same!(bool, i32, u32, u64, String, Nanos);

macro_rules! numbers {
    ($($id:ident: $number:ty),*) => {
        $(impl Convert<$number> for $id {
            fn convert(self) -> $number {
                self.0
            }
        }

        impl Convert<$id> for $number {
            fn convert(self) -> $id {
                $id(self)
            }
        })*
    };
}

numbers!(AppId: u32, InstanceId: u32, WorkerId: u64, Generation: u32, Revision: u32, SlotId: u32, GroupId: u32);

impl Convert<Nanos> for Duration {
    fn convert(self) -> Nanos {
        self.into()
    }
}

impl Convert<Duration> for Nanos {
    fn convert(self) -> Duration {
        self.into()
    }
}

impl Convert<Nanos> for Tick {
    fn convert(self) -> Nanos {
        self.0.into()
    }
}

impl Convert<Tick> for Nanos {
    fn convert(self) -> Tick {
        Tick(self.into())
    }
}

impl<A: Convert<B>, B> Convert<Option<B>> for Option<A> {
    fn convert(self) -> Option<B> {
        self.map(A::convert)
    }
}

impl<A: Convert<B>, B> Convert<Vec<B>> for Vec<A> {
    fn convert(self) -> Vec<B> {
        self.into_iter().map(A::convert).collect()
    }
}

impl<A: Convert<B>, B: Ord> Convert<BTreeSet<B>> for BTreeSet<A> {
    fn convert(self) -> BTreeSet<B> {
        self.into_iter().map(A::convert).collect()
    }
}

impl<A: Convert<C>, B: Convert<D>, C: Ord, D> Convert<BTreeMap<C, D>> for BTreeMap<A, B> {
    fn convert(self) -> BTreeMap<C, D> {
        let pairs = self.into_iter();
        pairs
            .map(|(key, value)| (key.convert(), value.convert()))
            .collect()
    }
}

impl<A: Convert<B> + Clone, B> Convert<B> for Arc<A> {
    fn convert(self) -> B {
        Arc::unwrap_or_clone(self).convert()
    }
}

/// A stored type that has the fields, or the variants, of a type of the core with the same name, and the way between the two. A change of
/// the core's type does not compile until somebody has decided what that means for what is stored.
macro_rules! mirror {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$how:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$how])* pub(crate) $field: $kind,)*
        }

        impl Convert<$name> for live::$name {
            fn convert(self) -> $name {
                let live::$name { $($field,)* } = self;
                $name { $($field: $field.convert(),)* }
            }
        }

        impl Convert<live::$name> for $name {
            fn convert(self) -> live::$name {
                let $name { $($field,)* } = self;
                live::$name { $($field: $field.convert(),)* }
            }
        }
    };
    ($(#[$doc:meta])* enum $name:ident { $($variant:ident $({ $($field:ident: $kind:ty),* })? $(($inner:ident: $of:ty))?,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub enum $name {
            $($variant $({ $($field: $kind),* })? $(($of))?,)*
        }

        impl Convert<$name> for live::$name {
            fn convert(self) -> $name {
                match self {
                    $(live::$name::$variant $({ $($field),* })? $(($inner))? => {
                        $name::$variant $({ $($field: $field.convert()),* })? $(($inner.convert()))?
                    })*
                }
            }
        }

        impl Convert<live::$name> for $name {
            fn convert(self) -> live::$name {
                match self {
                    $($name::$variant $({ $($field),* })? $(($inner))? => {
                        live::$name::$variant $({ $($field: $field.convert()),* })? $(($inner.convert()))?
                    })*
                }
            }
        }
    };
}

pub(crate) use mirror;
