// All texts of the language, by their keys.
import { activity } from './activity.ts';
import { create } from './create.ts';
import { firewall } from './firewall.ts';
import { frame } from './frame.ts';
import { nouns } from './nouns.ts';
import { vm } from './vm.ts';
import { vmPage } from './vm-page.ts';

export const zh = { ...frame, ...vm, ...vmPage, ...create, ...nouns, ...firewall, ...activity } as const;
