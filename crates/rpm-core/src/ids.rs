//! Newtype ids: one number each, never mixed up, never reused while the daemon lives (except
//! [`InstanceId`], which starts again at 0 when the list of instances becomes empty, as under PM2).

/// The first id of hidden apps, and of their instances. Ordinary ones are counted from 0 and do not get there.
const FIRST_HIDDEN: u32 = 1 << 31;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A named set of instances with one configuration.
    AppId(u32)
);
id!(
    /// A place in the process list: PM2's `pm_id`. It outlives the processes that fill it.
    InstanceId(u32)
);
id!(
    /// One supervised process. At least 1, new for every process: `cluster.worker.id`.
    WorkerId(u64)
);
id!(
    /// The set of workers started with one version of an app's configuration.
    Generation(u32)
);
id!(
    /// A version of what an app's workers are started from: program, arguments, environment. The shell chooses it, and the core only
    /// returns it.
    Revision(u32)
);
id!(
    /// A listening socket that the daemon keeps and lends to one worker.
    SlotId(u32)
);
id!(
    /// All slots of one public address: a `SO_REUSEPORT` group.
    GroupId(u32)
);
id!(
    /// A command whose outcome a client waits for.
    Ticket(u64)
);

impl AppId {
    /// A hidden app: its instances are not counted with the others, whose ids are the same with and without it.
    #[must_use]
    pub const fn hidden(number: u32) -> AppId {
        AppId(FIRST_HIDDEN | number)
    }

    /// True for what [`AppId::hidden`] made.
    #[must_use]
    pub const fn is_hidden(self) -> bool {
        self.0 >= FIRST_HIDDEN
    }
}

impl InstanceId {
    /// The first instance of a hidden app.
    pub(crate) const FIRST_HIDDEN: InstanceId = InstanceId(FIRST_HIDDEN);

    /// True for an instance of a hidden app.
    #[must_use]
    pub const fn is_hidden(self) -> bool {
        self.0 >= FIRST_HIDDEN
    }
}
