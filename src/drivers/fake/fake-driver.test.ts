import { driverConformance } from '../driver.conformance.ts';
import { fakeSubject } from './fake-subject.ts';

driverConformance('the fake driver', fakeSubject);
