-- Messages of the server to its users, until they are in the user's room of server notices and sent by e-mail.
CREATE TABLE notices (
    nid        {pk},
    user_nid   BIGINT NOT NULL,
    kind       TEXT   NOT NULL,            -- notices.Kind
    priority   BIGINT NOT NULL,            -- lower numbers are delivered first
    details    TEXT   NOT NULL,            -- JSON: what the message is about
    device_nid BIGINT NOT NULL,            -- the session that its link ends; 0: none
    created_ts BIGINT NOT NULL,            -- ms
    in_room    BIGINT NOT NULL,            -- 1: still to be sent to the room
    mail_to    TEXT   NOT NULL,            -- the addresses to which it is still to be sent, separated by spaces
    mail_ts    BIGINT NOT NULL             -- ms; when the next e-mail is tried
);
CREATE INDEX notices_for_rooms ON notices (priority, nid) WHERE in_room = 1;
CREATE INDEX notices_for_mail ON notices (mail_ts, nid) WHERE mail_to <> '';
CREATE INDEX notices_by_user ON notices (user_nid);

-- The room of each user to which server notices are sent.
CREATE TABLE notice_rooms (
    user_nid   BIGINT NOT NULL PRIMARY KEY,
    room_nid   BIGINT NOT NULL,
    sender_nid BIGINT NOT NULL             -- the account that created the room
);

-- How many notices of a kind a user has got within an interval, which is bounded.
CREATE TABLE notice_counts (
    user_nid BIGINT NOT NULL,
    kind     TEXT   NOT NULL,
    since_ts BIGINT NOT NULL,              -- ms; when the interval began
    number   BIGINT NOT NULL,
    PRIMARY KEY (user_nid, kind)
);

-- Links with which users say that it was not them.
CREATE TABLE disavowals (
    hash       TEXT   NOT NULL PRIMARY KEY, -- of the token: SHA-256, base64url
    notice_nid BIGINT NOT NULL,
    user_nid   BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    details    TEXT   NOT NULL,            -- as in notices
    device_nid BIGINT NOT NULL,            -- the session that the link ends; 0: none
    since_ts   BIGINT NOT NULL,            -- ms; what was added to the account since then is removed
    expires_ts BIGINT NOT NULL             -- ms
);
CREATE INDEX disavowals_by_user ON disavowals (user_nid, notice_nid);
CREATE INDEX disavowals_by_expiry ON disavowals (expires_ts);

-- Networks from which users have signed in.
CREATE TABLE known_networks (
    user_nid BIGINT NOT NULL,
    network  TEXT   NOT NULL,              -- keyed hash of the network
    seen_ts  BIGINT NOT NULL,              -- ms; the last time
    PRIMARY KEY (user_nid, network)
);
CREATE INDEX known_networks_by_age ON known_networks (seen_ts);
