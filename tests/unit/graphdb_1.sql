-- GraphDB as its first version made it.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Graph -------------------------------------------------------------------------------------------------------------
CREATE TABLE layer (
    chain_id TEXT PRIMARY KEY CHECK (chain_id GLOB 'sha256:*'),
    diff_id  TEXT NOT NULL,
    parent   TEXT REFERENCES layer (chain_id),
    cache_id TEXT NOT NULL UNIQUE,
    driver   TEXT NOT NULL,
    size     INTEGER NOT NULL DEFAULT 0,
    disk     INTEGER NOT NULL DEFAULT 0,
    archive  INTEGER NOT NULL DEFAULT 0,        -- bytes of the uncompressed archive
    state    TEXT NOT NULL CHECK (state IN ('making', 'ready', 'removing'))
) WITHOUT ROWID;
CREATE TABLE image (
    id      TEXT PRIMARY KEY CHECK (id GLOB 'sha256:*'),
    config  BLOB NOT NULL,                      -- the very bytes whose digest the id is
    created INTEGER NOT NULL,                   -- ns, of the config
    loaded  INTEGER NOT NULL,                   -- ns, when it came here
    size    INTEGER NOT NULL,
    top     TEXT REFERENCES layer (chain_id)    -- NULL: an image without layers
) WITHOUT ROWID;
CREATE TABLE tag (
    reference TEXT PRIMARY KEY,                 -- normalized: docker.io/library/busybox:latest or …@sha256:…
    image_id  TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    tagged    INTEGER NOT NULL                  -- ns
) WITHOUT ROWID;
CREATE INDEX tag_image ON tag (image_id);

-- Containers --------------------------------------------------------------------------------------------------------
CREATE TABLE container (
    id            TEXT PRIMARY KEY CHECK (length(id) = 64),
    name          TEXT NOT NULL UNIQUE,
    state         TEXT NOT NULL DEFAULT 'created' CHECK (state IN ('created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead')),
    image_id      TEXT NOT NULL,
    image_name    TEXT NOT NULL,
    layer_id      TEXT NOT NULL UNIQUE,         -- cache id of the writable layer
    driver        TEXT NOT NULL,
    config        BLOB NOT NULL,                -- JSON: the API's Config, merged with the image's
    host_config   BLOB NOT NULL,                -- JSON: the API's HostConfig
    mounts        BLOB NOT NULL DEFAULT '[]',   -- JSON: the API's Mounts
    path          TEXT NOT NULL,
    args          BLOB NOT NULL,                -- JSON array
    created       INTEGER NOT NULL,             -- ns
    started       INTEGER NOT NULL DEFAULT 0,
    finished      INTEGER NOT NULL DEFAULT 0,
    pid           INTEGER NOT NULL DEFAULT 0,
    exit_code     INTEGER NOT NULL DEFAULT 0,
    error         TEXT NOT NULL DEFAULT '',
    oom           INTEGER NOT NULL DEFAULT 0,
    restarts      INTEGER NOT NULL DEFAULT 0,
    stopped       INTEGER NOT NULL DEFAULT 0,   -- by the user: "unless-stopped" and "always" leave it alone
    intent        TEXT NOT NULL DEFAULT ''      -- what was going on when the row was written: 'start', 'create', …
) WITHOUT ROWID;
CREATE TABLE transition (before TEXT NOT NULL, after TEXT NOT NULL, PRIMARY KEY (before, after)) WITHOUT ROWID;
CREATE TRIGGER container_state BEFORE UPDATE OF state ON container
WHEN old.state <> new.state
    AND NOT EXISTS (SELECT 1 FROM transition WHERE before = old.state AND after = new.state)
BEGIN SELECT RAISE(ABORT, 'container state transition not allowed'); END;

-- Networks ----------------------------------------------------------------------------------------------------------
CREATE TABLE network (
    id         TEXT PRIMARY KEY CHECK (length(id) = 64),
    name       TEXT NOT NULL UNIQUE,
    driver     TEXT NOT NULL,
    created    INTEGER NOT NULL,
    internal   INTEGER NOT NULL DEFAULT 0,
    ipv4       INTEGER NOT NULL DEFAULT 1,
    ipv6       INTEGER NOT NULL DEFAULT 0,
    attachable INTEGER NOT NULL DEFAULT 0,
    options    BLOB NOT NULL DEFAULT '{}',    -- JSON
    labels     BLOB NOT NULL DEFAULT '{}',    -- JSON
    ipam       BLOB NOT NULL DEFAULT '{}',    -- JSON: the API's IPAM as asked for
    state      TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('making', 'ready', 'removing'))
) WITHOUT ROWID;
CREATE TABLE pool (
    network_id TEXT NOT NULL REFERENCES network (id) ON DELETE CASCADE,
    subnet     TEXT NOT NULL UNIQUE,
    gateway    TEXT,
    ip_range   TEXT,
    aux        BLOB NOT NULL DEFAULT '{}',
    PRIMARY KEY (network_id, subnet)
) WITHOUT ROWID;
CREATE TABLE endpoint (
    id           TEXT PRIMARY KEY CHECK (length(id) = 64),
    network_id   TEXT NOT NULL REFERENCES network (id),
    container_id TEXT NOT NULL REFERENCES container (id) ON DELETE CASCADE,
    settings     BLOB NOT NULL,                 -- JSON: the API's EndpointSettings as asked for
    active       INTEGER NOT NULL DEFAULT 0,    -- has addresses and an interface now
    interface    TEXT NOT NULL DEFAULT '',
    mac          TEXT NOT NULL DEFAULT '',
    ipv4         TEXT,                          -- with prefix length; NULL while the container does not run
    ipv6         TEXT,
    gateway      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (network_id, container_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX endpoint_ipv4 ON endpoint (network_id, ipv4) WHERE ipv4 IS NOT NULL;
CREATE UNIQUE INDEX endpoint_ipv6 ON endpoint (network_id, ipv6) WHERE ipv6 IS NOT NULL;
CREATE INDEX endpoint_container ON endpoint (container_id);
CREATE TABLE address_history (                  -- who had an address last: it is the last to be handed out again
    network_id TEXT NOT NULL REFERENCES network (id) ON DELETE CASCADE,
    address    TEXT NOT NULL,
    name       TEXT NOT NULL,
    released   INTEGER NOT NULL,
    PRIMARY KEY (network_id, address)
) WITHOUT ROWID;
CREATE TABLE port (                             -- published ports of running containers; ip '' = every address
    container_id   TEXT NOT NULL REFERENCES container (id) ON DELETE CASCADE,
    proto          TEXT NOT NULL CHECK (proto IN ('tcp', 'udp', 'sctp')),
    ip             TEXT NOT NULL,
    low            INTEGER NOT NULL CHECK (low BETWEEN 1 AND 65535),
    high           INTEGER NOT NULL CHECK (high BETWEEN low AND 65535),
    container_low  INTEGER NOT NULL,
    PRIMARY KEY (proto, ip, low)
) WITHOUT ROWID;
CREATE INDEX port_container ON port (container_id);
CREATE TRIGGER port_overlap BEFORE INSERT ON port
WHEN EXISTS (
    SELECT 1 FROM port WHERE proto = new.proto AND low <= new.high AND high >= new.low
        AND (ip = new.ip
             OR ip = '' OR new.ip = ''
             OR (ip = '0.0.0.0' AND new.ip NOT LIKE '%:%') OR (new.ip = '0.0.0.0' AND ip NOT LIKE '%:%')
             OR (ip = '::' AND new.ip LIKE '%:%') OR (new.ip = '::' AND ip LIKE '%:%')))
BEGIN SELECT RAISE(ABORT, 'port is already allocated'); END;

-- Volumes -----------------------------------------------------------------------------------------------------------
CREATE TABLE volume (
    name      TEXT PRIMARY KEY,
    driver    TEXT NOT NULL DEFAULT 'local',
    created   INTEGER NOT NULL,
    anonymous INTEGER NOT NULL DEFAULT 0,
    labels    BLOB NOT NULL DEFAULT '{}',
    options   BLOB NOT NULL DEFAULT '{}',
    state     TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('making', 'ready', 'removing'))
) WITHOUT ROWID;
CREATE TABLE volume_use (
    volume       TEXT NOT NULL REFERENCES volume (name),
    container_id TEXT NOT NULL REFERENCES container (id) ON DELETE CASCADE,
    target       TEXT NOT NULL,
    PRIMARY KEY (volume, container_id, target)
) WITHOUT ROWID;
