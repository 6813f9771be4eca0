// Languages of the console: which there are, which one is used, and words by their keys. A language is loaded when it is
// used; the keys are those of English, and another language that lacks one does not compile.
import { createInstance } from 'i18next';
import { useSyncExternalStore } from 'react';
import { loadPart } from '../data/part.ts';
import type { en } from './en/all.ts';

/** Name of a text. */
export type TextKey = keyof typeof en;
/** A whole language. */
export type Texts = Readonly<Record<TextKey, string>>;

export const languages = { en: 'English', zh: '简体中文' } as const;
export type Language = keyof typeof languages;

/** All texts that are loaded, and the language that is used. */
const i18n = createInstance();

const storageKey = 'lodge-language';

function preferred(): Language {
  const kept = localStorage.getItem(storageKey);
  if (kept === 'en' || kept === 'zh') return kept;
  return navigator.languages.some((one) => one.startsWith('zh')) && navigator.languages[0]?.startsWith('zh') === true
    ? 'zh'
    : 'en';
}

async function texts(language: Language): Promise<Texts> {
  return language === 'zh'
    ? (await loadPart(() => import('./zh/all.ts'))).zh
    : (await loadPart(() => import('./en/all.ts'))).en;
}

function announce(language: Language): void {
  document.documentElement.lang = language === 'zh' ? 'zh-Hans' : 'en';
}

/** Loads the language that was chosen, or that the browser prefers. */
export async function startLanguage(): Promise<void> {
  const language = preferred();
  await i18n.init({
    lng: language,
    resources: { [language]: { translation: await texts(language) } },
    keySeparator: false,
    nsSeparator: false,
    // React escapes what it draws.
    interpolation: { escapeValue: false },
  });
  announce(language);
}

/** Changes the language of everything that is shown, and keeps it. */
export async function chooseLanguage(language: Language): Promise<void> {
  if (!i18n.hasResourceBundle(language, 'translation')) {
    i18n.addResourceBundle(language, 'translation', await texts(language));
  }
  await i18n.changeLanguage(language);
  localStorage.setItem(storageKey, language);
  announce(language);
}

/** The language that is used now. */
export function currentLanguage(): Language {
  return i18n.language === 'zh' ? 'zh' : 'en';
}

/** Gives the text of a key; `values` stand for what is in double braces in it. */
export type Say = (key: TextKey, values?: Record<string, string | number>) => string;

/** A text outside of a component. */
export const say: Say = (key, values) => i18n.t(key, values ?? {});

function subscribe(listener: () => void): () => void {
  i18n.on('languageChanged', listener);
  return () => i18n.off('languageChanged', listener);
}

/** Texts in the language that is used; a component that asks for them is drawn again when it changes. */
export function useText(): Say {
  useSyncExternalStore(subscribe, currentLanguage);
  return say;
}

/** A text whose key is put together at run time; `fallback` where there is none. */
export function sayOr(key: string, fallback: string): string {
  return i18n.exists(key) ? i18n.t(key) : fallback;
}
