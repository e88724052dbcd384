-- Room directories of third-party networks, which application services keep.
CREATE TABLE appservice_rooms (
    app      TEXT   NOT NULL,               -- ID of the application service's registration
    network  TEXT   NOT NULL,
    room_nid BIGINT NOT NULL,
    PRIMARY KEY (app, network, room_nid)
);
CREATE INDEX appservice_rooms_by_room ON appservice_rooms (room_nid);
