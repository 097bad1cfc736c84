// Makes tests/vectors/hyper/bee.json: the blocks of Hyperbees after puts, deletes and batches, and a diff.
// Run in this folder: node make_bee_vectors.js > ../../vectors/hyper/bee.json
const fs = require('fs')
const os = require('os')
const path = require('path')
const { createHash } = require('crypto')
const Hypercore = require('hypercore')
const Hyperbee = require('hyperbee')
const crypto = require('hypercore-crypto')

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vectors-'))
const keyPair = crypto.keyPair(Buffer.alloc(32, 1))

async function blocks(core) {
  const all = []
  for (let i = 0; i < core.length; i++) all.push((await core.get(i)).toString('hex'))
  return all
}

// a small generator that the tests have too
function random(state) {
  return (limit) => {
    state = (state * 48271) % 2147483647
    return state % limit
  }
}

async function run(name, steps, options) {
  const core = new Hypercore(path.join(dir, name), { keyPair })
  const bee = new Hyperbee(core, { keyEncoding: 'utf-8', valueEncoding: 'utf-8', ...options })
  await bee.ready()
  for (const step of steps) {
    const target = Array.isArray(step[0]) ? bee.batch() : bee
    for (const [kind, key, value] of Array.isArray(step[0]) ? step : [step]) {
      if (kind === 'put') await target.put(key, value)
      else await target.del(key)
    }
    if (target !== bee) await target.flush()
  }
  const all = await blocks(core)
  const out = { name, steps, length: core.length, digest: createHash('sha256').update(all.join('\n')).digest('hex') }
  if (all.length < 80) out.blocks = all
  const diff = []
  const half = Math.max(1, Math.floor(core.length / 2))
  if (!steps.some((step) => Array.isArray(step[0]))) {
    for await (const { left, right } of bee.createDiffStream(half)) {
      diff.push([left && left.key, left && left.seq, right && right.key, right && right.seq])
    }
    out.half = half
    out.diff = diff
  }
  await bee.close()
  return out
}

function mixed(seed, count, keys, batched) {
  const next = random(seed)
  const steps = []
  for (let i = 0; i < count; i++) {
    const step = next(3) < 2 ? ['put', 'key ' + next(keys), 'value ' + i] : ['del', 'key ' + next(keys)]
    if (batched && i % 9) steps[steps.length - 1].push(step)
    else steps.push(batched ? [step] : step)
  }
  return steps
}

const ascending = (count) => Array.from({ length: count }, (_, i) => ['put', String(i).padStart(4, '0'), 'v' + i])

async function main() {
  const out = { origin: 'npm hyperbee ' + require('hyperbee/package.json').version, cases: [] }
  const add = async (...args) => out.cases.push(await run(...args))
  await add('few', [['put', 'a', '1'], ['put', 'b', '2'], ['put', 'a', '3'], ['del', 'a'], ['del', 'zzz']])
  await add('metadata', [['put', 'a', '1']], { metadata: { contentFeed: null, userData: null } })
  await add('ascending', ascending(60))
  await add('descending', ascending(60).reverse())
  await add('all deleted', [...ascending(30), ...ascending(30).map(([, key]) => ['del', key])])
  await add('one batch', [ascending(50)])
  await add('batches', [ascending(20), [['del', '0003'], ['put', '0100', 'x']], ascending(40).slice(15)])
  for (let i = 1; i <= 4; i++) await add('mixed ' + i, mixed(i, 600, 30 * i * i))
  for (let i = 5; i <= 8; i++) await add('mixed batches ' + i, mixed(i, 600, 8 * i * i, true))
  await add('large', mixed(77, 3000, 3000))
  // the longer runs are made again by the tests: seed, count and keys are in the name's table there
  for (const c of out.cases) if (c.steps.length > 100 || c.name.startsWith('mixed')) delete c.steps
  console.log(JSON.stringify(out))
  fs.rmSync(dir, { recursive: true })
}

main()
