// Hyperdrives of npm, driven by tests (peer.js).
const fs = require('fs')
const crypto = require('crypto')
const Hyperdrive = require('hyperdrive')
const { store: root, seeded, serve } = require('./peer')

const drives = new Map()
const sha = (data) => crypto.createHash('sha256').update(data).digest('hex')

function state (drive) {
  return {
    key: drive.key.toString('hex'),
    contentKey: drive.contentKey ? drive.contentKey.toString('hex') : null,
    version: drive.version,
    fork: drive.core.fork,
    writable: drive.writable
  }
}

const commands = {
  async open ({ id, key, namespace, encryptionKey }) {
    const store = namespace ? root.namespace(namespace) : root.session()
    const options = encryptionKey ? { encryptionKey: Buffer.from(encryptionKey, 'hex') } : {}
    const drive = new Hyperdrive(store, key ? Buffer.from(key, 'hex') : null, options)
    await drive.ready()
    drives.set(id, drive)
    return state(drive)
  },
  async state ({ id }) { return state(drives.get(id)) },
  async put ({ id, path, data, executable, metadata }) {
    await drives.get(id).put(path, Buffer.from(data, 'hex'), { executable: !!executable, metadata: metadata || null })
    return state(drives.get(id))
  },
  async putSeeded ({ id, folder, seed, count, size }) {
    const batch = drives.get(id).batch()
    for (let i = 0; i < count; i++) await batch.put(`${folder}/${i % 10}/file ${i}`, seeded(seed, i, size))
    await batch.flush()
    return state(drives.get(id))
  },
  async putFile ({ id, path, file }) {
    await new Promise((resolve, reject) => {
      const sink = drives.get(id).createWriteStream(path)
      sink.on('close', resolve).on('error', reject)
      fs.createReadStream(file).on('error', reject).pipe(sink)
    })
    return state(drives.get(id))
  },
  async symlink ({ id, path, target }) {
    await drives.get(id).symlink(path, target)
    return state(drives.get(id))
  },
  async del ({ id, path }) {
    await drives.get(id).del(path)
    return state(drives.get(id))
  },
  async dedup ({ id, path, data }) {
    const stream = drives.get(id).createWriteStream(path, { dedup: true })
    await new Promise((resolve, reject) => { stream.on('close', resolve); stream.on('error', reject); stream.end(Buffer.from(data, 'hex')) })
    return state(drives.get(id))
  },
  async get ({ id, path, version }) {
    const drive = version ? drives.get(id).checkout(version) : drives.get(id)
    const data = await drive.get(path)
    return { data: data && data.toString('hex') }
  },
  async hash ({ id, path }) {
    const hash = crypto.createHash('sha256')
    for await (const part of drives.get(id).createReadStream(path)) hash.update(part)
    return { sha256: hash.digest('hex') }
  },
  async range ({ id, path, start, end }) {
    const parts = []
    for await (const part of drives.get(id).createReadStream(path, { start, end: end - 1 })) parts.push(part)
    return { data: Buffer.concat(parts).toString('hex') }
  },
  // every entry below /, with the hash of its content
  async tree ({ id, version }) {
    const drive = version ? drives.get(id).checkout(version) : drives.get(id)
    const tree = {}
    for await (const { key, value } of drive.list('/')) {
      const data = value.blob ? await drive.get(key) : null
      tree[key] = [value.executable, value.linkname, value.metadata, data && data.length, data && sha(data)]
    }
    return { tree }
  },
  async diff ({ id, version }) {
    const found = []
    for await (const { left, right } of drives.get(id).diff(version, '/')) {
      found.push([left && [left.key, left.seq], right && [right.key, right.seq]])
    }
    return { diff: found }
  },
  async download ({ id, folder }) {
    await drives.get(id).download(folder || '/').done()
    return state(drives.get(id))
  },
  async truncate ({ id, version }) {
    await drives.get(id).truncate(version)
    return state(drives.get(id))
  },
  async close ({ id }) {
    await drives.get(id).close()
    drives.delete(id)
    return {}
  },
  async waitVersion ({ id, version, fork }) {
    const drive = drives.get(id)
    while (drive.version < version || drive.core.fork < (fork || 0)) {
      await new Promise((resolve) => { drive.core.once('append', resolve); drive.core.once('truncate', resolve) })
    }
    return state(drive)
  }
}

serve(commands)
