// A corestore of npm hypercore, driven by tests (peer.js). Blocks travel as hex, or are made from a seed on
// both sides.
const crypto = require('crypto')
const hypercoreCrypto = require('hypercore-crypto')
const { MerkleTree } = require('hypercore/lib/merkle-tree')
const { store, seeded, serve } = require('./peer')

const cores = new Map()
const conflicts = new Map()

const commands = {
  async open ({ id, name, key, encryptionKey }) {
    const options = { name, key: key && Buffer.from(key, 'hex') }
    if (encryptionKey) options.encryptionKey = Buffer.from(encryptionKey, 'hex')
    const core = store.get(options)
    await core.ready()
    cores.set(id, core)
    conflicts.set(id, new Promise((resolve) => core.once('conflict', (length, fork) => resolve({ length, fork }))))
    return state(core)
  },
  async waitConflict ({ id }) { return conflicts.get(id) },
  async state ({ id }) { return state(cores.get(id)) },
  async append ({ id, blocks }) {
    await cores.get(id).append(blocks.map((block) => Buffer.from(block, 'hex')))
    return state(cores.get(id))
  },
  async appendSeeded ({ id, seed, from, count, size, batch }) {
    for (let at = from; at < from + count; at += batch) {
      const blocks = []
      for (let i = at; i < Math.min(at + batch, from + count); i++) blocks.push(seeded(seed, i, size))
      await cores.get(id).append(blocks)
    }
    return state(cores.get(id))
  },
  async get ({ id, index, wait, timeout }) {
    const block = await cores.get(id).get(index, { wait: wait !== false, timeout: timeout || 0 })
    return { block: block && block.toString('hex') }
  },
  async update ({ id, wait }) { return { updated: await cores.get(id).update({ wait: !!wait }) } },
  async seek ({ id, bytes }) { return { at: await cores.get(id).seek(bytes) } },
  async download ({ id, start, end }) {
    await cores.get(id).download({ start, end }).done()
    return state(cores.get(id))
  },
  async truncate ({ id, length }) {
    await cores.get(id).truncate(length)
    return state(cores.get(id))
  },
  async clear ({ id, start, end }) {
    await cores.get(id).clear(start, end)
    return {}
  },
  async has ({ id, start, end }) {
    const held = []
    for (let i = start; i < end; i++) held.push(await cores.get(id).has(i))
    return { held }
  },
  async hashes ({ id, start, end }) {
    const hash = crypto.createHash('sha256')
    for (let i = start; i < end; i++) hash.update(await cores.get(id).get(i))
    return { sha256: hash.digest('hex') }
  },
  async waitLength ({ id, length }) {
    const core = cores.get(id)
    while (core.length < length) await new Promise((resolve) => core.once('append', resolve))
    return state(core)
  },
  async waitFork ({ id, fork, length }) {
    const core = cores.get(id)
    while (core.fork < fork || core.length < length) {
      await new Promise((resolve) => { core.once('truncate', resolve); core.once('append', resolve) })
    }
    return state(core)
  }
}

async function state (core) {
  return {
    key: core.key.toString('hex'),
    discoveryKey: core.discoveryKey.toString('hex'),
    length: core.length,
    byteLength: core.byteLength,
    fork: core.fork,
    contiguousLength: core.contiguousLength,
    writable: core.writable,
    // core.treeHash() would fetch the last block first
    treeHash: hypercoreCrypto.tree(await MerkleTree.getRoots(core.state, core.length)).toString('hex')
  }
}

serve(commands)
