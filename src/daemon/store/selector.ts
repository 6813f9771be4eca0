// Label selectors, in the syntax and with the meaning of Kubernetes
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors):
//
//   a=b  a==b  a!=b  a in (x,y)  a notin (x,y)  a  !a  a>5  a<5      joined by commas, all must hold
//
// As there, != and notin also hold where the label is missing.
import { invalidField } from '../../api/errors.ts';
import { labelKey, labelValue } from '../../api/object.ts';

export type Labels = Readonly<Record<string, string>>;

/** Makes a test of labels from a selector. Throws invalid_request for the field that it stands in. */
export function parseSelector(text: string, field = 'query.selector'): (labels: Labels) => boolean {
  if (text.trim() === '') return () => true;
  const reader = new SelectorReader(text, field);
  const tests: ((labels: Labels) => boolean)[] = [];
  do tests.push(reader.requirement());
  while (reader.takeComma());
  return (labels) => tests.every((test) => test(labels));
}

const token = /\s*(==|!=|[=!,()<>]|[^\s=!,()<>]+)\s*/y;

class SelectorReader {
  readonly #text: string;
  readonly #tokens: string[] = [];
  readonly #field: string;
  #next = 0;

  constructor(text: string, field: string) {
    this.#text = text;
    this.#field = field;
    token.lastIndex = 0;
    while (token.lastIndex < text.length) {
      const match = token.exec(text);
      if (!match) throw this.#problem('is not readable');
      this.#tokens.push(match[1] ?? '');
    }
  }

  /** True for a comma, false at the end. */
  takeComma(): boolean {
    const found = this.#take();
    if (found === undefined) return false;
    if (found !== ',') throw this.#problem(`has "${found}" where a comma or the end should be`);
    return true;
  }

  requirement(): (labels: Labels) => boolean {
    if (this.#peek() === '!') {
      this.#take();
      const key = this.#key();
      return (labels) => !Object.hasOwn(labels, key);
    }
    const key = this.#key();
    const has = (labels: Labels): boolean => Object.hasOwn(labels, key);
    const operator = this.#peek();
    switch (operator) {
      case undefined:
      case ',':
        return has;
      case '=':
      case '==':
      case '!=': {
        this.#take();
        const value = this.#value();
        return operator === '!='
          ? (labels) => !has(labels) || labels[key] !== value
          : (labels) => has(labels) && labels[key] === value;
      }
      case 'in':
      case 'notin': {
        this.#take();
        const values = this.#values();
        const isAmong = (labels: Labels): boolean => has(labels) && values.has(labels[key] ?? '');
        return operator === 'in' ? isAmong : (labels) => !isAmong(labels);
      }
      case '<':
      case '>': {
        this.#take();
        const bound = this.#value();
        if (!/^-?\d+$/.test(bound)) throw this.#problem(`compares ${key} with "${bound}", which is no whole number`);
        return (labels) => {
          const value = labels[key] ?? '';
          if (!/^-?\d+$/.test(value)) return false;
          return operator === '<' ? Number(value) < Number(bound) : Number(value) > Number(bound);
        };
      }
      default:
        throw this.#problem(`has "${operator}" after the key ${key}, where = != in notin < > or a comma can be`);
    }
  }

  #peek(): string | undefined {
    return this.#tokens[this.#next];
  }

  #take(): string | undefined {
    return this.#tokens[this.#next++];
  }

  #key(): string {
    const key = this.#take();
    if (key === undefined) throw this.#problem('ends where a label key should be');
    if (!labelKey.test(key)) throw this.#problem(`has "${key}" where a label key should be`);
    return key;
  }

  /** A value may be empty: then a comma, a parenthesis or the end follows. */
  #value(): string {
    const next = this.#peek();
    if (next === undefined || next === ',' || next === ')') return '';
    this.#take();
    if (!labelValue.test(next)) throw this.#problem(`has "${next}" where a label value should be`);
    return next;
  }

  #values(): Set<string> {
    if (this.#take() !== '(') throw this.#problem('has in or notin without a list in parentheses');
    const values = new Set<string>();
    for (;;) {
      values.add(this.#value());
      const separator = this.#take();
      if (separator === ')') return values;
      if (separator !== ',') throw this.#problem('has a list of values that is not closed');
    }
  }

  #problem(message: string): Error {
    const expected = 'a label selector reads like app=web,tier!=db,env in (prod,test),!legacy';
    return invalidField(this.#field, `${message}; ${expected}`, this.#text);
  }
}
