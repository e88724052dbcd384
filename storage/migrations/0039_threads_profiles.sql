-- Subscriptions to threads, and when the profile fields of local users changed.

CREATE TABLE thread_subscriptions (
    user_nid BIGINT NOT NULL,
    root     BIGINT NOT NULL,                 -- position of the thread's root
    room_nid BIGINT NOT NULL,
    state    BIGINT NOT NULL,                 -- storage.Subscription
    position BIGINT NOT NULL,                 -- of the last change
    PRIMARY KEY (user_nid, root)
);
CREATE INDEX thread_subscriptions_by_position ON thread_subscriptions (user_nid, position);
CREATE INDEX thread_subscriptions_by_root ON thread_subscriptions (root);

CREATE TABLE profile_changes (
    user_nid BIGINT NOT NULL,
    name     TEXT   NOT NULL,                 -- of the field, which profile_fields lacks if it was deleted
    position BIGINT NOT NULL,                 -- of the last change
    PRIMARY KEY (user_nid, name)
);
CREATE INDEX profile_changes_by_position ON profile_changes (position);
