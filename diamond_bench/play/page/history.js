/** What was played: a tree of moments, and the numbers that each of them showed. Nothing here knows the page. */

export class History {
  constructor() {
    this.grow([[0, null, 0, 1]]);
    this.forget();
  }

  /** Drops all numbers, as after a reset. */
  forget() {
    this.numbers = new Map(); // moment -> its frame's message
    this.after = new Map(); // moment -> the moment that was visited last after it
    this.now = this.leaf = 0;
    this._path = null;
  }

  /**
   * Takes the whole tree from the server.
   * @param {number[][]} runs [[first moment, the moment before it or null, its step, number of moments]], by first moment
   */
  grow(runs) {
    this.runs = runs.map(([first, before, step, count]) => ({ first, before: before ?? -1, step, count }));
    this.before = [];
    this.steps = [];
    for (const { first, before, step, count } of this.runs) {
      for (let i = 0; i < count; i++) {
        this.before[first + i] = i ? first + i - 1 : before;
        this.steps[first + i] = step + i;
      }
    }
    this._path = null;
  }

  /** The number of moments. */
  get size() {
    return this.before.length;
  }

  /** The step of a moment: actions since the start. */
  step(moment) {
    return this.steps[moment] ?? 0;
  }

  /** Keeps the numbers of a frame and goes to its moment. Moments after the last known one continue its run. */
  note(frame) {
    for (let moment = this.size; moment <= frame.moment; moment++) {
      this.before[moment] = moment - 1;
      this.steps[moment] = this.steps[moment - 1] + 1;
      this.runs.at(-1).count++;
    }
    this.numbers.set(frame.moment, frame);
    this.go(frame.moment);
  }

  /** Goes to a moment. While it lies on the present branch, the branch stays, so that one can go forward again. */
  go(moment) {
    this.now = moment;
    for (let at = moment; this.before[at] >= 0 && this.after.get(this.before[at]) !== at; at = this.before[at]) {
      this.after.set(this.before[at], at);
    }
    if (this.path[this.step(moment)] === moment) return;
    if (this.before[moment] === this.leaf) {
      this.path.push(moment);
      this.leaf = moment;
    } else {
      for (let at = moment; at !== undefined; at = this.next(at)) this.leaf = at;
      this._path = null;
    }
  }

  /** The moment after one, on the branch that was visited last. */
  next(moment) {
    const inRun = this.before[moment + 1] === moment ? moment + 1 : undefined;
    return this.after.get(moment) ?? inRun ?? this.runs.findLast((run) => run.before === moment)?.first;
  }

  /** Moments from the start to the end of the present branch, by step. */
  get path() {
    if (!this._path) {
      this._path = [];
      for (let at = this.leaf; at >= 0; at = this.before[at]) this._path[this.steps[at]] = at;
    }
    return this._path;
  }

  /** Ends of all branches, in the order of play. */
  get leaves() {
    const inner = new Set(this.runs.map((run) => run.before));
    return this.runs.map((run) => run.first + run.count - 1).filter((moment) => !inner.has(moment));
  }

  /** The end of the branch that comes `by` places after the present one. */
  branch(by) {
    const { leaves } = this;
    return leaves[(leaves.indexOf(this.leaf) + by + leaves.length) % leaves.length];
  }

  /** The frames of steps `first` to `last` of the present branch, undefined where the page did not get them. */
  frames(first, last) {
    return this.path.slice(first, last + 1).map((moment) => this.numbers.get(moment));
  }
}
