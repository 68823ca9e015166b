//! Every result a client can be given: one table of number, name, sanlock's own text, and what it means to a person.
//!
//! Shapes: 0 is success, a few calls answer with a positive count, a negative number down to -199 is a kernel errno,
//! and -201 to -278 are the lease protocol's own. The texts are those the installed libsanlock prints for each
//! number (A 14); it has none for errnos. The names of the -2xx are ours and say what happened.

use std::fmt;

/// The result of a request: `data` of the reply header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultCode(i32);

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct CodeRow {
    /// The number.
    pub code: i32,
    /// Its name: the errno's, or ours.
    pub name: &'static str,
    /// What `sanlock_strerror` prints.
    pub text: &'static str,
    /// What it means, in a sentence without a capital or a full stop, to stand after "refused: ".
    pub meaning: &'static str,
}

/// What sanlock prints for a number it has no text for.
pub const NO_TEXT: &str = "Unknown error";

macro_rules! codes {
    ($($code:literal $name:ident $text:expr, $meaning:literal;)*) => {
        impl ResultCode {
            $(#[doc = $meaning] pub const $name: Self = Self($code);)*
            /// Success.
            pub const OK: Self = Self(0);
        }

        /// The table, from -1 downwards.
        pub const TABLE: &[CodeRow] =
            &[$(CodeRow { code: $code, name: stringify!($name), text: $text, meaning: $meaning },)*];
    };
}

codes! {
    -1 EPERM NO_TEXT, "it could not be done: not held by this client, or removed or shut down meanwhile";
    -2 ENOENT NO_TEXT, "there is no such lockspace, lease or file";
    -3 ESRCH NO_TEXT, "no registered client has this pid";
    -4 EINTR NO_TEXT, "interrupted";
    -5 EIO NO_TEXT, "the disk reported an i/o error";
    -6 ENXIO NO_TEXT, "the string is not a resource string, or the device is not there";
    -7 E2BIG NO_TEXT, "too many resources in one call, or a value larger than a sector";
    -9 EBADF NO_TEXT, "bad file descriptor";
    -11 EAGAIN NO_TEXT, "not now: the lease is being released or shared by others, or hosts are not known yet; try again";
    -12 ENOMEM NO_TEXT, "out of memory";
    -13 EACCES NO_TEXT, "permission denied";
    -14 EFAULT NO_TEXT, "bad address";
    -16 EBUSY NO_TEXT, "in use, or another command for the same client is still running";
    -17 EEXIST NO_TEXT, "already held on this host, or the lockspace is already joined";
    -19 ENODEV NO_TEXT, "the lockspace's path cannot be opened";
    -20 ENOTDIR NO_TEXT, "a part of the path is not a directory";
    -21 EISDIR NO_TEXT, "the path is a directory";
    -22 EINVAL NO_TEXT, "an argument is invalid, or contradicts a lockspace of the same name or place";
    -23 ENFILE NO_TEXT, "too many open files on this system";
    -24 EMFILE NO_TEXT, "too many open files in the daemon";
    -25 ENOTTY NO_TEXT, "the client ended while its request was running";
    -27 EFBIG NO_TEXT, "beyond the end of the file or device";
    -28 ENOSPC NO_TEXT, "the lockspace is not joined, or it has failed";
    -30 EROFS NO_TEXT, "the device or file system is read-only";
    -34 ERANGE NO_TEXT, "a resource needs one to four disks";
    -38 ENOSYS NO_TEXT, "the daemon does not serve this command";
    -50 ENOCSI NO_TEXT, "too many event connections for this lockspace";
    -74 EBADMSG NO_TEXT, "a message could not be understood";
    -75 EOVERFLOW NO_TEXT, "a value is too large for its place";
    -79 ELIBACC NO_TEXT, "the state string is too long";
    -80 ELIBBAD NO_TEXT, "the state string is too long for one reply";
    -81 ELIBSCN NO_TEXT, "a held resource has a space in its name or path, which the state string cannot say";
    -90 EMSGSIZE NO_TEXT, "the lease area lies beyond the end of the device";
    -95 EOPNOTSUPP NO_TEXT, "not supported";
    -104 ECONNRESET NO_TEXT, "the connection was reset";
    -107 ENOTCONN NO_TEXT, "the request ended before all of it was sent";
    -110 ETIMEDOUT NO_TEXT, "it took too long";
    -111 ECONNREFUSED NO_TEXT, "no daemon is listening";
    -114 EALREADY NO_TEXT, "it is already so";
    -115 EINPROGRESS NO_TEXT, "the lockspace is still being joined or left";
    -116 ESTALE NO_TEXT, "the client has ended";
    -117 EUCLEAN NO_TEXT, "a former client left this lease behind as an orphan";
    -125 ECANCELED NO_TEXT, "cancelled";
    -201 GENERAL_ERROR "General error", "general error";
    -202 IO_TIMEOUT "IO timeout", "the disk did not answer in time; whether a write landed is unknown";
    -203 WATCHDOG_ERROR "Watchdog device error", "the watchdog cannot be reached or used";
    -210 DBLOCK_READ "Lease read error in dblock", "a dblock of the lease could not be read";
    -211 DBLOCK_WRITE "Lease write error in dblock", "a dblock of the lease could not be written";
    -212 BALLOT_LVER_MOVED "Lease was acquired by another host in new ballot", "another host acquired the lease in a newer ballot";
    -213 BALLOT_MBAL_MOVED "Lease was acquired by another host in current ballot", "another host outran us in this ballot";
    -214 DBLOCK_CHECKSUM "Lease checksum error in dblock", "a dblock of the lease is damaged: wrong checksum";
    -220 LEADER_READ "Lease read error in leader", "the leader record could not be read";
    -221 LEADER_WRITE "Lease write error in leader", "the leader record could not be written";
    -222 LEADER_DIFFERS "Lease read inconsistent", "the leader record changed between two reads, or differs between disks";
    -223 LEADER_MAGIC "Lease does not exist on storage", "there is no lease at this place on disk";
    -224 LEADER_VERSION "Lease format version on storage is not recognized", "the lease on disk has a format version we do not know";
    -225 LEADER_SECTOR_SIZE "Lease sector size is inconsistent", "the lease on disk was made for another sector size";
    -226 LEADER_LOCKSPACE "Lease lockspace name is incorrect", "the lease on disk belongs to another lockspace";
    -227 LEADER_RESOURCE "Lease resource name is incorrect", "the lease on disk has another resource name";
    -228 LEADER_NUM_HOSTS "Lease num_hosts is incorrect", "the lease on disk has no room for this host_id";
    -229 LEADER_CHECKSUM "Lease checksum error in leader", "the leader record on disk is damaged: wrong checksum";
    -230 LOCKSPACE_SIZES NO_TEXT, "sector size and alignment do not go together";
    -231 LOCKSPACE_HOST_ID NO_TEXT, "the host_id is too large for this sector size and alignment";
    -240 LVER_DIFFERS NO_TEXT, "the lease on disk has another version than the one asked for";
    -241 NO_LOCKSPACE "Lease lockspace is not found", "the lease's lockspace is not found";
    -242 LOCKSPACE_DISK "Lease lockspace disk cannot be opened", "the lockspace's disk cannot be opened to see whether the owner lives";
    -243 HELD_BY_LIVE_HOST "Lease is held by another host", "another host, which is alive, holds the lease";
    -244 LOST_BALLOT "Lease was acquired by another host in other ballot", "another host acquired the lease first; try again";
    -245 LOST_COMMIT "Lease was acquired by another host in local commit", "another host acquired the lease while ours was being committed; try again";
    -246 SHARED_RETRIES "Lease is held by another host for shared acquire", "other hosts kept the lease busy while it was to be shared; try again";
    -247 OWNER_NOT_DEAD_YET "Lease is owned by another host", "its owner no longer renews but is not dead yet; try again later";
    -250 RELEASE_LVER "Lease release version is incorrect", "the lease on disk is no longer the version we hold";
    -251 RELEASE_OWNER "Lease release owner is incorrect", "the lease on disk is no longer ours";
    -260 RENEW_OWNER "Lease renew owner is incorrect", "our host_id lease on disk has another owner";
    -261 RENEW_DIFFERS "Lease renew data has changed", "our host_id lease on disk was changed by someone else";
    -262 HOST_ID_BUSY "Lease host ID is being used by another host", "another host is using this host_id";
    -270 REQUEST_MAGIC "Lease request block has invalid data", "the request record is damaged";
    -271 REQUEST_VERSION "Lease request block has invalid version", "the request record has a version we do not know";
    -272 REQUEST_OLD "Lease request has newer lease version", "the lease already has this version or a newer one";
    -273 REQUEST_LVER "Lease request block has newer version", "a request for a newer version is already there";
    -274 RINDEX_MAGIC NO_TEXT, "there is no resource index at this place on disk";
    -275 RINDEX_VERSION NO_TEXT, "the resource index has a version we do not know";
    -276 RINDEX_LOCKSPACE NO_TEXT, "the resource index belongs to another lockspace";
    -277 RINDEX_OFFSET NO_TEXT, "the offset is not one of this resource index";
    -278 RINDEX_DIFFERS NO_TEXT, "the resource index does not agree with the lease on disk";
}

impl ResultCode {
    /// A result by its number.
    #[must_use]
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// The result of a kernel errno (positive, as `errno` has it).
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        Self(-errno.saturating_abs())
    }

    /// The number: 0, a positive count, or negative.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The result in a header's `data`.
    #[must_use]
    pub const fn from_wire(data: u32) -> Self {
        Self(data.cast_signed())
    }

    /// The word for a header's `data`.
    #[must_use]
    pub const fn wire(self) -> u32 {
        self.0.cast_unsigned()
    }

    /// Whether this is a failure: anything negative. Some calls succeed with a positive count.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 0
    }

    /// The row of the table, if the number is in it.
    #[must_use]
    pub fn row(self) -> Option<&'static CodeRow> {
        TABLE.iter().find(|row| row.code == self.0)
    }

    /// Its name: `HELD_BY_LIVE_HOST`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.name)
    }

    /// What sanlock prints for it.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.row().map_or(NO_TEXT, |row| row.text)
    }

    /// What it means to a person.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self.row() {
            Some(row) => row.meaning,
            None if self.0 >= 0 => "success",
            None => "a result we have no words for",
        }
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name}, {})", self.meaning(), self.0),
            None => write!(f, "{} ({})", self.meaning(), self.0),
        }
    }
}

impl fmt::Debug for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.name().map_or(Ok(()), |name| write!(f, "={name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_each_number_once() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code > pair[1].code));
        for row in TABLE {
            assert_eq!(ResultCode::new(row.code).row(), Some(row));
            assert!(!row.meaning.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn every_number_of_the_specification_has_a_row() {
        let own = (201..=203).chain(210..=214).chain(220..=231).chain(240..=247).chain(250..=251).chain(260..=262);
        let errnos = [1, 2, 3, 7, 11, 16, 17, 19, 22, 25, 28, 34, 50, 79, 80, 81, 90, 107, 114, 115, 116, 117];
        for code in own.chain(270..=278).chain(errnos) {
            assert!(ResultCode::new(-code).row().is_some(), "-{code}");
        }
    }

    #[test]
    fn texts_are_those_of_libsanlock_and_errnos_have_none() {
        assert_eq!(ResultCode::new(-243).text(), "Lease is held by another host");
        assert_eq!(ResultCode::LEADER_MAGIC.text(), "Lease does not exist on storage");
        for silent in [-2, -230, -231, -240, -274, -278, -299] {
            assert_eq!(ResultCode::new(silent).text(), "Unknown error");
        }
    }

    #[test]
    fn a_code_prints_as_a_sentence_with_its_number() {
        assert_eq!(
            ResultCode::HELD_BY_LIVE_HOST.to_string(),
            "another host, which is alive, holds the lease (HELD_BY_LIVE_HOST, -243)"
        );
        assert_eq!(ResultCode::from_errno(2), ResultCode::ENOENT);
        assert_eq!(ResultCode::from_wire(0xffff_fff0), ResultCode::EBUSY);
        assert_eq!(ResultCode::EBUSY.wire(), 0xffff_fff0);
    }
}
